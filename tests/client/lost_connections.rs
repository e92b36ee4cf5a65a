//! Calls over a connection that is lost.

use profilestore::client::{ClientError, DeleteOptions, UpdateOptions};
use tokio::net::TcpListener;

use crate::common::server::{TestServer, listener_to_come_back_to, memory_store};
use crate::common::soon;
use crate::proxy::{Loss, Proxy};
use crate::*;

#[tokio::test]
async fn a_write_whose_answer_was_lost_is_made_once() {
    let server = TestServer::start().await;
    let proxy = Proxy::to(server.address()).await;
    let client = client(proxy.address);
    // Without the request id a second profile would be made.
    proxy.lose(Loss::Answer);
    let created = client.create(profile("", "ada@a.example")).await.unwrap();
    assert_eq!(all_ids(&client).await, std::slice::from_ref(&created.id));
    // Or the etag would not be the current one, the second time.
    proxy.lose(Loss::Answer);
    let renamed = Profile { display_name: "Ada".into(), ..created.clone() };
    let updated = client.update(renamed, UpdateOptions::default()).await.unwrap();
    assert_eq!(updated.display_name, "Ada");
    assert_eq!(client.get(&created.id).await.unwrap(), Some(updated));
    // Or there would be nothing to delete.
    proxy.lose(Loss::Answer);
    client.delete(&created.id, DeleteOptions::default()).await.unwrap();
    assert_eq!(all_ids(&client).await.len(), 0);
    assert_eq!(proxy.cuts(), 3);
}

#[tokio::test]
async fn without_repetitions_a_lost_answer_is_unavailable() {
    let server = TestServer::start().await;
    let proxy = Proxy::to(server.address()).await;
    let client = builder(proxy.address).retries(0).build().unwrap();
    proxy.lose(Loss::Answer);
    let error = client.create(profile("ada", "")).await.unwrap_err();
    assert!(matches!(error, ClientError::Unavailable(_)), "{error}");
    // It was made all the same.
    assert_eq!(all_ids(&client).await, ["ada"]);
}

#[tokio::test]
async fn a_read_is_repeated_until_the_server_is_back() {
    let server = TestServer::on(listener_to_come_back_to().await, memory_store()).await;
    let address = server.address();
    let patient = builder(address).retries(20).build().unwrap();
    assert_eq!(patient.get("ada").await.unwrap(), None);
    drop(server);
    let hasty = builder(address).retries(0).build().unwrap();
    soon(async { while hasty.get("ada").await.is_ok() {} }).await;
    let read = tokio::spawn(async move { patient.get("ada").await });
    let listener = soon(async {
        loop {
            match TcpListener::bind(address).await {
                Ok(listener) => break listener,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    });
    let _server = TestServer::on(listener.await, memory_store()).await;
    assert_eq!(read.await.unwrap().unwrap(), None);
}
