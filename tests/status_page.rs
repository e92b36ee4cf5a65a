//! The status page of the admin listener and its JSON, of a real server over a real store.

mod common;

use std::collections::BTreeSet;
use std::net::SocketAddr;

use futures_util::TryStreamExt;
use profilestore::client::{Client, ImportOptions, PageOptions, Profile, UpdateOptions};
use profilestore::server::sample::Sampler;
use profilestore::server::{Server, Settings};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use common::soon;

const SAMPLE: u64 = 500;

struct Running {
    admin: SocketAddr,
    client: Client,
    shutdown: Option<oneshot::Sender<()>>,
    served: JoinHandle<()>,
    _dir: TempDir,
}

/// An answer to a plain GET.
struct Answer {
    head: String,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

impl Running {
    async fn start(change: impl FnOnce(&mut Settings)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut settings = Settings::default();
        settings.server.listen = "127.0.0.1:0".parse().unwrap();
        settings.server.admin_listen = "127.0.0.1:0".parse().unwrap();
        settings.store.data_dir = dir.path().join("data");
        settings.store.ballast_bytes = 0;
        change(&mut settings);
        let (shutdown, asked) = oneshot::channel();
        let (ready, started) = oneshot::channel();
        // A server is run by one thread to its end, as by the program.
        let runtime = tokio::runtime::Handle::current();
        let served = tokio::task::spawn_blocking(move || {
            runtime.block_on(async {
                let server = Server::start(&settings, Some(SAMPLE)).await.unwrap();
                ready.send((server.grpc_address(), server.admin_address())).unwrap();
                server.run(async { asked.await.unwrap_or_default() }).await.unwrap();
            });
        });
        let (grpc, admin) = soon(started).await.unwrap();
        let client = Client::builder(grpc.to_string()).build().unwrap();
        Self { admin, client, shutdown: Some(shutdown), served, _dir: dir }
    }

    async fn get(&self, path: &str) -> Answer {
        let mut stream = TcpStream::connect(self.admin).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", self.admin);
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        soon(stream.read_to_string(&mut answer)).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        Answer { head: head.to_owned(), body: body.to_owned() }
    }

    async fn json(&self, query: &str) -> Value {
        let answer = self.get(&format!("/status.json{query}")).await;
        assert!(answer.head.starts_with("HTTP/1.1 200"), "{}", answer.head);
        assert_eq!(answer.header("content-type"), Some("application/json"));
        serde_json::from_str(&answer.body).unwrap()
    }

    /// The JSON as soon as it holds something, since figures are read once a second.
    async fn json_when(&self, holds: impl Fn(&Value) -> bool) -> Value {
        soon(async {
            loop {
                let json = self.json("").await;
                if holds(&json) {
                    return json;
                }
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        })
        .await
    }

    /// Some calls of each kind, and how often each id was read.
    async fn use_it(&self) {
        for number in [1, 1, 1, 2, 1, 1] {
            self.client.get(Sampler::id(number)).await.unwrap().unwrap();
        }
        assert_eq!(self.client.get("nobody@home.example").await.unwrap(), None);
        let profile = Profile { id: Sampler::id(3), display_name: "Jane Roe".into(), ..Profile::default() };
        let options = UpdateOptions { mask: vec!["display_name".into()], ..UpdateOptions::default() };
        self.client.update(profile, options).await.unwrap();
        self.client.query_page("company-1.example", true, PageOptions::default(), String::new()).await.unwrap();
    }

    async fn stop(mut self) {
        self.shutdown.take().unwrap().send(()).unwrap();
        soon(self.served).await.unwrap();
    }
}

/// Whether the last call of [`Running::use_it`] is among what is told, and so all of them are: a second may have ended between
/// two of them. And whether the size of the store is known.
fn tells_all(json: &Value) -> bool {
    let methods = json["methods"].as_array().unwrap();
    methods.iter().any(|row| row["method"] == "QueryProfilesByDomain") && json["totals"]["disk_bytes"].is_u64()
}

fn length(json: &Value, column: &str) -> usize {
    json["points"][column].as_array().unwrap().len()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_is_one_document_that_may_load_nothing_else() {
    let server = Running::start(|_| {}).await;
    let (page, other) = (server.get("/").await, server.get("/").await);
    assert!(page.head.starts_with("HTTP/1.1 200"), "{}", page.head);
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    assert_eq!(page.header("cache-control"), Some("no-store"));
    assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
    let policy = page.header("content-security-policy").unwrap();
    for part in ["default-src 'none'", "connect-src 'self'", "base-uri 'none'", "frame-ancestors 'none'"] {
        assert!(policy.contains(part), "{part} in {policy}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
    assert_ne!(Some(policy), other.header("content-security-policy"), "a number that is used once");
    let nonce = policy.split("script-src 'nonce-").nth(1).unwrap().split('\'').next().unwrap();
    for tag in [format!("<style nonce=\"{nonce}\">"), format!("<script nonce=\"{nonce}\">")] {
        assert!(page.body.contains(&tag), "{tag}");
    }
    for left in ["{nonce}", "{style}", "{script}", " src=", "@import", "url("] {
        assert!(!page.body.contains(left), "{left} in the page");
    }
    let addresses: BTreeSet<_> = page.body.match_indices("://").map(|(at, _)| &page.body[at..at + 20]).collect();
    assert_eq!(addresses, BTreeSet::from(["://www.w3.org/2000/s"]), "the name of SVG is the only address");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_json_tells_what_the_server_does() {
    let server = Running::start(|_| {}).await;
    server.use_it().await;
    let json = server.json_when(tells_all).await;
    let named = |table: &str, key: &str| -> Vec<String> {
        json[table].as_array().unwrap().iter().map(|row| row[key].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!((&json["server"]["state"], &json["server"]["engine"]), (&"serving".into(), &"sled".into()));
    assert_eq!(json["totals"]["profiles"], SAMPLE);
    assert!(json["totals"]["disk_bytes"].as_u64().unwrap() > 0 && json["totals"]["live_bytes"].as_u64().unwrap() > 0);
    let methods = named("methods", "method");
    for method in ["GetProfile", "UpdateProfile", "QueryProfilesByDomain"] {
        assert!(methods.iter().any(|other| other == method), "{method} in {methods:?}");
    }
    assert!(named("slow", "method").iter().any(|method| method == "UpdateProfile"), "{}", json["slow"]);
    assert!(json["now"]["p50_ms"].as_f64().unwrap() <= json["now"]["p99_ms"].as_f64().unwrap());
    let missing = json["methods"].as_array().unwrap().iter().find(|row| row["method"] == "GetProfile").unwrap();
    assert!(missing["errors"].as_f64() > Some(0.0) && missing["server_errors"] == 0.0, "{missing}");
    assert_eq!((&json["hot"]["ids"][0]["reads"], &json["hot"]["ids"][1]["reads"]), (&5.into(), &1.into()));
    assert_eq!(json["hot"]["domains"][0]["key"], "company-1.example");
    // The write was a group, which took some time to be durable.
    let known =
        |column: &str| json["points"][column].as_array().unwrap().iter().filter_map(Value::as_f64).next_back();
    assert!(known("group_size") >= Some(1.0) && known("sync_p99_ms") > Some(0.0), "{}", json["points"]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn points_come_once_to_whoever_asks_for_those_after_his_last() {
    let server = Running::start(|_| {}).await;
    let json = server.json_when(|json| length(json, "t") >= 2).await;
    let columns = json["points"].as_object().unwrap();
    assert!(columns.len() >= 10 && columns.keys().all(|name| length(&json, name) == length(&json, "t")));
    let (first, count) = (json["first"].as_u64().unwrap(), length(&json, "t") as u64);
    let next = first + count;
    soon(async {
        loop {
            let more = server.json(&format!("?after={next}")).await;
            assert_eq!(more["first"], next);
            if length(&more, "t") > 0 {
                let last = json["points"]["t"][count as usize - 1].as_f64();
                assert!(more["points"]["t"][0].as_f64() > last, "a later point");
                return;
            }
        }
    })
    .await;
    for nonsense in ["?after=", "?after=-1", "?after=x&y", "?after=99999999999999999999", "?after=1000", "?", "?a=1"]
    {
        let all = server.json(nonsense).await;
        assert!(all["first"] == 1 && length(&all, "t") >= 2, "{nonsense}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_personal_is_told_unless_ids_are_asked_for() {
    let server = Running::start(|_| {}).await;
    server.use_it().await;
    let json = server.json_when(tells_all).await.to_string();
    for personal in [Sampler::id(1).as_str(), "nobody", "@", "Jane", "Roe"] {
        assert!(!json.contains(personal), "{personal} in {json}");
    }
    server.stop().await;
    let server = Running::start(|settings| settings.observe.status_page_ids = true).await;
    server.use_it().await;
    let json = server.json_when(tells_all).await;
    assert_eq!((&json["hot"]["masked"], &json["hot"]["ids"][0]["key"]), (&false.into(), &Sampler::id(1).into()));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_server_says_so() {
    let mut server = Running::start(|_| {}).await;
    server.json_when(|json| json["server"]["state"] == "serving").await;
    // An import keeps it waiting until somebody has looked.
    let (caller, mut given) = tokio::sync::mpsc::channel(1);
    let profiles = futures_util::stream::poll_fn(move |cx| given.poll_recv(cx));
    let mut import = server.client.import(profiles, ImportOptions::default());
    caller.send(Profile { id: "the-first".into(), ..Profile::default() }).await.unwrap();
    soon(import.try_next()).await.unwrap().unwrap();
    server.shutdown.take().unwrap().send(()).unwrap();
    server.json_when(|json| json["server"]["state"] == "draining").await;
    drop((caller, import));
    soon(server.served).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_turned_off_is_not_there() {
    let server = Running::start(|settings| settings.observe.status_page = false).await;
    for path in ["/", "/status.json"] {
        assert!(server.get(path).await.head.starts_with("HTTP/1.1 404"), "{path}");
    }
    server.stop().await;
    let server = Running::start(|settings| settings.observe.metrics = false).await;
    server.use_it().await;
    // Hot keys are always on.
    let json = server.json_when(|json| length(json, "t") >= 1 && json["hot"]["ids"][0]["reads"] == 5).await;
    assert_eq!((&json["counts_calls"], &json["now"]["calls"]), (&false.into(), &Value::Null));
    server.stop().await;
}
