//! A small OTLP receiver, and a server whose log and traces a test can read.

use std::fs::File;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use parking_lot::Mutex;
use profilestore::pb::profile_service_client::ProfileServiceClient;
use tokio::runtime::Runtime;
use tonic::transport::Channel;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use crate::*;

/// How a receiver behaves.
#[derive(Debug, Clone, Copy)]
pub enum Manner {
    Prompt,
    /// Answers after this time.
    Slow(Duration),
    /// Never answers.
    Hanging,
}

/// Takes spans over the wire.
pub struct Receiver {
    pub address: SocketAddr,
    taken: Taken,
    /// Ends the receiver when it is dropped.
    _runtime: Runtime,
}

#[derive(Clone)]
struct Taken {
    exports: Arc<Mutex<Vec<ExportTraceServiceRequest>>>,
    calls: Arc<AtomicU64>,
    manner: Manner,
}

#[tonic::async_trait]
impl TraceService for Taken {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        match self.manner {
            Manner::Prompt => {}
            Manner::Slow(time) => tokio::time::sleep(time).await,
            Manner::Hanging => std::future::pending().await,
        }
        self.exports.lock().push(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Receiver {
    pub fn start(manner: Manner) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let taken = Taken { exports: Arc::default(), calls: Arc::default(), manner };
        let incoming = {
            let _on_its_runtime = runtime.enter();
            TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap()
        };
        let address = incoming.local_addr().unwrap();
        let service = TraceServiceServer::new(taken.clone());
        runtime.spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
        Self { address, taken, _runtime: runtime }
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// All spans that have come.
    pub fn spans(&self) -> Vec<Span> {
        let exports = self.taken.exports.lock();
        let scopes = exports.iter().flat_map(|export| &export.resource_spans).flat_map(|spans| &spans.scope_spans);
        scopes.flat_map(|scope| scope.spans.clone()).collect()
    }

    /// How often it was asked to take spans.
    pub fn calls(&self) -> u64 {
        self.taken.calls.load(Ordering::Relaxed)
    }

    /// Everything that has come, as text.
    pub fn text(&self) -> String {
        format!("{:?}", self.taken.exports.lock())
    }

    /// What the last resource says under a key.
    pub fn resource(&self, key: &str) -> Option<String> {
        let exports = self.taken.exports.lock();
        let resource = exports.last()?.resource_spans.first()?.resource.clone()?;
        word(&resource.attributes, key)
    }

    /// Waits for a span.
    pub fn wait_for(&self, what: &str, is_it: impl Fn(&Span) -> bool) -> Span {
        let mut found = None;
        wait_until(what, || {
            found = self.spans().into_iter().find(|span| is_it(span));
            found.is_some()
        });
        found.unwrap()
    }
}

/// The text of an attribute.
pub fn word(attributes: &[KeyValue], key: &str) -> Option<String> {
    match value(attributes, key)? {
        Value::StringValue(word) => Some(word),
        other => panic!("{key} is {other:?}"),
    }
}

/// The number of an attribute.
pub fn number(attributes: &[KeyValue], key: &str) -> Option<i64> {
    match value(attributes, key)? {
        Value::IntValue(number) => Some(number),
        other => panic!("{key} is {other:?}"),
    }
}

fn value(attributes: &[KeyValue], key: &str) -> Option<Value> {
    attributes.iter().find(|each| each.key == key)?.value.clone()?.value
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A server that writes its log, as JSON, to a file; killed when it is dropped.
pub struct Observed {
    pub process: Child,
    pub address: String,
    pub admin: String,
    pub dir: TempDir,
    runtime: Runtime,
}

impl Observed {
    /// A server with these settings, given by the environment.
    pub fn start(variables: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self::start_in(dir, variables)
    }

    pub fn start_in(dir: TempDir, variables: &[(&str, &str)]) -> Self {
        let config = dir.path().join("config.toml");
        if !config.exists() {
            std::fs::write(&config, "").unwrap();
        }
        let log = File::options().create(true).append(true).open(dir.path().join("log")).unwrap();
        let mut command = program();
        for (key, _) in std::env::vars_os().filter(|(key, _)| key.to_string_lossy().starts_with("OTEL_")) {
            command.env_remove(key);
        }
        let mut process = command
            .args(["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--data-dir"])
            .arg(dir.path().join("data"))
            .arg("--config")
            .arg(&config)
            .env("PROFILESTORE__STORE__BALLAST_BYTES", "0")
            .env("OTEL_BSP_SCHEDULE_DELAY", "20")
            .envs(variables.iter().copied())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let part = |name: &str| line.split_whitespace().find_map(|word| word.strip_prefix(name)).map(str::to_owned);
        let (address, admin) = part("grpc=").zip(part("admin=")).unwrap_or_else(|| {
            panic!("no ready line: {}", std::fs::read_to_string(dir.path().join("log")).unwrap_or_default())
        });
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        Self { process, address, admin, dir, runtime }
    }

    /// Runs calls to their end.
    pub fn block_on<T>(&self, calls: impl Future<Output = T>) -> T {
        self.runtime.block_on(calls)
    }

    pub fn channel(&self) -> Channel {
        let _on_its_runtime = self.runtime.enter();
        Channel::from_shared(format!("http://{}", self.address)).unwrap().connect_lazy()
    }

    pub fn profiles(&self) -> ProfileServiceClient<Channel> {
        ProfileServiceClient::new(self.channel())
    }

    pub fn log_text(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    /// The whole lines of the log so far.
    pub fn log(&self) -> Vec<serde_json::Value> {
        let text = self.log_text();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}"))).collect()
    }

    /// The lines with this message.
    pub fn lines(&self, message: &str) -> Vec<serde_json::Value> {
        self.log().into_iter().filter(|line| line["fields"]["message"] == message).collect()
    }

    /// Waits for a line with this message that is as it should be, and returns its fields.
    pub fn wait_for_line(&self, message: &str, is_it: impl Fn(&serde_json::Value) -> bool) -> serde_json::Value {
        let mut found = None;
        wait_until(message, || {
            found = self.lines(message).into_iter().map(|line| line["fields"].clone()).find(|fields| is_it(fields));
            found.is_some()
        });
        found.unwrap()
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let id = rustix::process::Pid::from_child(&self.process);
        rustix::process::kill_process(id, signal).unwrap();
    }

    /// Asks the server to end and waits for it.
    pub fn stop(&mut self) {
        self.signal(rustix::process::Signal::TERM);
        let mut code = None;
        wait_until("the server ends", || {
            code = self.process.try_wait().unwrap();
            code.is_some()
        });
        assert!(code.unwrap().success());
    }

    /// An HTTP/1 request to the admin listener: the status and the body.
    pub fn admin(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        self.admin_as("localhost", method, path, body)
    }

    /// The same with another name for the server.
    pub fn admin_as(&self, host: &str, method: &str, path: &str, body: &str) -> (u16, String) {
        use std::io::Read;
        let mut stream = std::net::TcpStream::connect(&self.admin).unwrap();
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
        )
        .unwrap();
        stream.write_all(body.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }
}

impl Drop for Observed {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
