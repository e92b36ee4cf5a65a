//! Redis in memory only: it is compared in reads, which the disk has no part in.

use std::io::{BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

use profilestore::pb::Profile;
use prost::Message;
use rustix::process::Signal;

use super::peer::{Peer, free_port, program};

/// Starts Redis with these profiles, encoded, under their ids. `None` where it is not installed.
pub fn start(dir: &Path, profiles: &[Profile]) -> anyhow::Result<Option<Peer>> {
    let (Some(server), Some(_)) = (program("redis-server", &[]), program("redis-benchmark", &[])) else {
        return Ok(None);
    };
    let port = free_port()?;
    let data = dir.join("redis");
    std::fs::create_dir_all(&data)?;
    let mut command = Command::new(server);
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
    command.arg("--dir").arg(&data);
    let peer = Peer::start("Redis", port, &mut command, dir, Signal::TERM)?;
    let mut stream = TcpStream::connect(peer.address())?;
    let mut answers = BufReader::new(stream.try_clone()?);
    for profile in profiles {
        let value = profile.encode_to_vec();
        stream.write_all(&command_of(&[b"SET", profile.id.as_bytes(), &value]))?;
        expect(&mut answers, b"+OK\r\n")?;
        stream.write_all(&command_of(&[b"GET", profile.id.as_bytes()]))?;
        expect(&mut answers, format!("${}\r\n", value.len()).as_bytes())?;
        expect(&mut answers, &[&value[..], b"\r\n"].concat())?;
    }
    Ok(Some(peer))
}

fn command_of(words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        bytes.extend_from_slice(word);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

fn expect(answers: &mut impl Read, expected: &[u8]) -> anyhow::Result<()> {
    let mut answer = vec![0; expected.len()];
    answers.read_exact(&mut answer)?;
    anyhow::ensure!(answer == expected, "Redis did not store what it was given");
    Ok(())
}
