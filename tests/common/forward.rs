//! What a store that meddles with some calls leaves to the store inside.

/// The methods of `Store` from the log on, each answered by the store in a field.
macro_rules! forward_log_and_state_to {
    ($inner:ident) => {
        async fn head(&self) -> Result<profilestore::store::Position, profilestore::store::StoreError> {
            self.$inner.head().await
        }

        async fn oldest_position(&self) -> Result<profilestore::store::Position, profilestore::store::StoreError> {
            self.$inner.oldest_position().await
        }

        async fn hold(
            &self,
            name: &profilestore::store::HoldName,
            position: &profilestore::store::Position,
        ) -> Result<(), profilestore::store::StoreError> {
            self.$inner.hold(name, position).await
        }

        async fn release_hold(
            &self,
            name: &profilestore::store::HoldName,
        ) -> Result<bool, profilestore::store::StoreError> {
            self.$inner.release_hold(name).await
        }

        async fn holds(&self) -> Result<Vec<profilestore::store::Hold>, profilestore::store::StoreError> {
            self.$inner.holds().await
        }

        fn has_lost_holds(&self) -> bool {
            self.$inner.has_lost_holds()
        }

        fn watch_head(&self) -> tokio::sync::watch::Receiver<profilestore::store::Position> {
            self.$inner.watch_head()
        }

        fn position_of(&self, record: &profilestore::model::Record) -> profilestore::store::Position {
            self.$inner.position_of(record)
        }

        fn status(&self) -> profilestore::store::StoreStatus {
            self.$inner.status()
        }

        async fn disk_bytes(&self) -> Result<u64, profilestore::store::StoreError> {
            self.$inner.disk_bytes().await
        }

        fn watch_state(&self) -> tokio::sync::watch::Receiver<profilestore::store::StoreState> {
            self.$inner.watch_state()
        }

        async fn verify_with(
            &self,
            progress: profilestore::store::VerifyProgress,
        ) -> Result<profilestore::store::VerifyReport, profilestore::store::StoreError> {
            self.$inner.verify_with(progress).await
        }

        async fn close(&self) -> Result<(), profilestore::store::StoreError> {
            self.$inner.close().await
        }
    };
}

pub(crate) use forward_log_and_state_to;
