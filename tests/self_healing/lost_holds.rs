//! A damaged file of holds: what was held is not known any more, and no change is skipped for that.

use profilestore::feed::publisher::{MessageOptions, Publisher, PublisherOptions, Start};

use super::*;

fn publisher_options() -> PublisherOptions {
    let message = MessageOptions { subject: "p".into(), source: "s".into(), include_profile: false };
    // What a publisher begins with that never had a place.
    PublisherOptions { message, start: Start::Now, max_in_flight: 1 }
}

/// How many changes a publisher still has to publish that begins now.
async fn left_to_publish(store: SledStore) -> (Arc<SledStore>, u64) {
    let store = Arc::new(store);
    drop(Publisher::prepare(store.clone(), publisher_options()).await.unwrap());
    let left = store.holds().await.unwrap()[0].lag;
    (store, left)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_whose_place_was_lost_by_damage_skips_nothing() {
    let (dir, time) = (tempfile::tempdir().unwrap(), Time::new());
    let at = || options(dir.path(), &time);
    let (store, left) = left_to_publish(open(at()).await.unwrap()).await;
    assert_eq!(left, 0, "the first one begins with the next change");
    for number in 0..3 {
        commit(&store, put(number, 0)).await;
    }
    store.close().await.unwrap();
    let holds = dir.path().join("holds");
    let mut bytes = fs::read(&holds).unwrap();
    bytes[20] ^= 1;
    fs::write(&holds, bytes).unwrap();
    // The damage is found by a server that does not publish, and that ends before the next one does.
    let store = open(at()).await.unwrap();
    assert!(store.has_lost_holds() && !holds.exists());
    store.close().await.unwrap();
    let (store, left) = left_to_publish(open(at()).await.unwrap()).await;
    assert_eq!(left, 3, "what was not published is not skipped");
    store.close().await.unwrap();
    let store = open(at()).await.unwrap();
    assert!(!store.has_lost_holds(), "there is a place again");
    // Given up by someone who says so: the next one is the first again.
    assert!(Publisher::forget(&store).await.unwrap());
    store.close().await.unwrap();
    let (_store, left) = left_to_publish(open(at()).await.unwrap()).await;
    assert_eq!(left, 0);
}
