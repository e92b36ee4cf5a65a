//! What GetStatus tells when the store does not answer: operators ask it then.

use profilestore::pb::GetStatusRequest;
use profilestore::pb::admin_service_client::AdminServiceClient;
use profilestore::store::StoreError;

use crate::common::server::TestServer;
use crate::common::soon;
use crate::stores::{Fault, FaultyStore};

#[tokio::test]
async fn the_status_has_what_is_in_memory_when_the_log_is_not_to_be_read() {
    for fault in [Fault::Hangs, Fault::Fails(StoreError::Overloaded)] {
        let server = TestServer::over(FaultyStore::new(fault)).await;
        let mut admin = AdminServiceClient::new(server.channel());
        let status = soon(admin.get_status(GetStatusRequest {})).await.unwrap().into_inner();
        let feed = status.feed.unwrap();
        assert_eq!((status.engine.as_str(), feed.watcher_count), ("memory", 0));
        assert!(feed.oldest_token.is_empty() && feed.oldest_time.is_none(), "{feed:?}");
        assert!(!feed.newest_token.is_empty(), "{feed:?}");
    }
}
