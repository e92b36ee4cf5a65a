//! A batch that sled kept in part, and a disk that refused the mark of it: the next open notices by itself.

use super::*;

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

fn sled_in(dir: &Path) -> ::sled::Db {
    open_sled(&dir.join("sled"))
}

fn rows(dir: &Path) -> Rows {
    let rows = sled_in(dir).iter().map(|row| row.unwrap()).map(|(key, value)| (key.to_vec(), value.to_vec()));
    // The key by which an open tries sled's syncs says nothing.
    rows.filter(|(key, _)| key != b"s").collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_part_of_a_batch_sled_kept_the_store_is_whole() {
    let (dir, faults) = (tempfile::tempdir().unwrap(), Faults::new(None));
    let at = |name: &str| dir.path().join(name);
    let store = open(&at("live"), &faults).await.unwrap();
    commit(&store, vec![put("a", "a@one.example", "before"), put("b", "b@one.example", "before")]).await;
    store.close().await.unwrap();
    copy_dir(&at("live"), &at("before"));
    // One group that moves a profile to another domain, as a kill leaves it.
    let store = open(&at("live"), &faults).await.unwrap();
    commit(&store, vec![put("a", "a@two.example", "after")]).await;
    copy_dir(&at("live"), &at("killed"));
    store.close().await.unwrap();
    let (before, after) = (rows(&at("before")), rows(&at("live")));
    let keys: std::collections::BTreeSet<_> = before.keys().chain(after.keys()).collect();
    let changed: Vec<_> = keys.into_iter().filter(|key| before.get(*key) != after.get(*key)).collect();
    assert_eq!(changed.len(), 6, "the id, two entries, two counters, the applied sequence: {changed:?}");
    let mut built_anew = 0;
    for kept in 0..1_u32 << changed.len() {
        let copy = at(&format!("kept-{kept}"));
        copy_dir(&at("killed"), &copy);
        fs::remove_dir_all(copy.join("sled")).unwrap();
        copy_dir(&at("before").join("sled"), &copy.join("sled"));
        let sled = sled_in(&copy);
        for (_, key) in changed.iter().enumerate().filter(|(number, _)| kept >> number & 1 == 1) {
            match after.get(*key) {
                Some(value) => sled.insert(key, value.as_slice()).unwrap(),
                None => sled.remove(key).unwrap(),
            };
        }
        sled.flush().unwrap();
        drop(sled);
        let store = open(&copy, &faults).await.unwrap();
        let names = [("a", "after"), ("b", "before")].map(|(id, name)| (id.to_owned(), name.to_owned()));
        assert_eq!(contents(&store).await, names.into(), "kept {kept:b}");
        store.close().await.unwrap();
        built_anew += usize::from(copy.join("sled-set-aside-1").exists());
        fs::remove_dir_all(copy).unwrap();
    }
    // Nothing of it and all of it are as good as ever, and a part that the replay covers.
    assert!(built_anew > 32, "{built_anew}");
}
