//! Exports.

use futures_util::TryStreamExt;
use profilestore::client::{ExportOptions, Exported};

use crate::common::server::TestServer;
use crate::proxy::{Loss, Proxy};
use crate::*;

#[tokio::test]
async fn an_export_goes_on_after_a_cut_and_nothing_is_lost_or_sent_twice() {
    let server = TestServer::start().await;
    let proxy = Proxy::to(server.address()).await;
    let client = client(proxy.address);
    import(&client, many(4500), ImportOptions::default()).await;
    // In the first chunk, between two, in a later one, and behind the last.
    for (round, others) in [0, 1, 5, 12].into_iter().enumerate() {
        proxy.lose(Loss::MessageAfter(others));
        let chunks: Vec<Exported> = client.export(ExportOptions::default()).try_collect().await.unwrap();
        let found: Vec<_> = chunks.iter().flat_map(|chunk| ids(&chunk.profiles)).collect();
        assert_eq!(found, ids(&many(4500)));
        assert_eq!(proxy.cuts(), round + 1);
        let cursor = chunks[1].cursor.clone();
        let rest: Vec<_> = client.export(ExportOptions { cursor, ..Default::default() }).try_collect().await.unwrap();
        assert_eq!(rest.len(), chunks.len() - 2);
    }
    let of_domain = ExportOptions { domain: "d3.example".into(), ..ExportOptions::default() };
    let chunks: Vec<_> = client.export(of_domain).try_collect().await.unwrap();
    assert_eq!(chunks.iter().map(|chunk| chunk.profiles.len()).sum::<usize>(), 643);
}
