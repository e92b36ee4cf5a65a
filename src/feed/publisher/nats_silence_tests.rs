use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;

/// A broker that takes connections and pings, and answers nothing else.
async fn serve_in_silence(mut stream: TcpStream) -> io::Result<()> {
    stream.write_all(b"INFO {\"server_id\":\"s\",\"max_payload\":1048576,\"proto\":1,\"headers\":true}\r\n").await?;
    let mut bytes = [0; 4096];
    loop {
        let count = stream.read(&mut bytes).await?;
        if count == 0 {
            return Ok(());
        }
        if bytes[..count].windows(6).any(|six| six == b"PING\r\n") {
            stream.write_all(b"PONG\r\n").await?;
        }
    }
}

#[tokio::test]
async fn questions_about_streams_do_not_wait_as_long_as_acknowledgements_may_take() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let broker = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve_in_silence(stream));
        }
    });
    let options = NatsOptions {
        servers: Servers::parse(&format!("nats://{address}")).unwrap(),
        credentials_file: None,
        ca_file: None,
        subject: "p".into(),
        stream: Some(StreamOptions {
            name: "S".into(),
            max_bytes: 1 << 20,
            max_age: Duration::from_secs(60),
            duplicate_window: Duration::from_secs(60),
        }),
        ack_timeout: Duration::from_secs(600),
        max_in_flight: 1,
    };
    // Long enough for a busy machine to connect.
    let nats = Nats { options, patience: Duration::from_secs(2) };
    let connected = timeout(Duration::from_secs(60), nats.connect()).await.expect("it waits for an acknowledgement");
    assert_eq!(connected.err(), Some(Delay::Slow));
    broker.abort();
}
