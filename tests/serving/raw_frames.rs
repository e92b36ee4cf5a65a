//! HTTP/2 frames by hand, for what no library would send.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const ACK: u8 = 1;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The preface and empty settings.
pub fn opening() -> Vec<u8> {
    [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()
}

pub fn ping() -> Vec<u8> {
    frame(PING, 0, 0, b"12345678")
}

pub fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &8u32.to_be_bytes())
}

/// A header as HPACK writes one that is in no table: both strings as they are.
pub fn literal(name: &str, value: &str) -> Vec<u8> {
    let mut field = vec![0];
    for text in [name, value] {
        integer(text.len(), &mut field);
        field.extend(text.as_bytes());
    }
    field
}

/// A length in HPACK's seven bits and more.
fn integer(length: usize, field: &mut Vec<u8>) {
    if length < 0x7f {
        field.push(length as u8);
        return;
    }
    field.push(0x7f);
    let mut rest = length - 0x7f;
    while rest >= 0x80 {
        field.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    field.push(rest as u8);
}

/// The headers of a call: `:method POST` and `:scheme http` from the table, the path and the authority as they are.
pub fn request_headers(path: &str) -> Vec<u8> {
    let mut block = vec![0x83, 0x86];
    block.extend(literal(":path", path));
    block.extend(literal(":authority", "a"));
    block
}

/// A call without a body.
pub fn call(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &request_headers(path))
}

/// A frame as it was received.
#[derive(Debug)]
pub struct Received {
    pub kind: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Received {
    /// The error code of a RST_STREAM or a GOAWAY.
    pub fn error_code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }
}

/// The next frame; `None` at the end of the connection, however it comes.
pub async fn receive(io: &mut (impl AsyncRead + Unpin)) -> Option<Received> {
    let mut head = [0; 9];
    read(io, &mut head).await.ok()?;
    let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
    read(io, &mut payload).await.ok()?;
    let stream = u32::from_be_bytes(head[5..].try_into().unwrap());
    Some(Received { kind: head[3], stream, payload })
}

async fn read(io: &mut (impl AsyncRead + Unpin), bytes: &mut [u8]) -> io::Result<()> {
    io.read_exact(bytes).await.map(drop)
}

/// All frames to the end of the connection.
pub async fn receive_all(io: &mut (impl AsyncRead + Unpin)) -> Vec<Received> {
    let mut frames = Vec::new();
    while let Some(frame) = receive(io).await {
        frames.push(frame);
    }
    frames
}
