//! A connection that is being made, once for all who wait for it.

use std::cell::RefCell;
use std::future::Future;
use std::rc::Rc;

use futures::FutureExt;
use futures::future::{LocalBoxFuture, Shared};
use heddle_policy::Reason;

use crate::tasks::Panics;

/// The attempt under way to make connections of one kind, if there is one.
pub(crate) struct Connecting<T>(Rc<RefCell<Option<Attempt<T>>>>);

pub(crate) type Attempt<T> = Shared<LocalBoxFuture<'static, Result<T, Reason>>>;

impl<T> Default for Connecting<T> {
    fn default() -> Self {
        Self(Rc::default())
    }
}

impl<T: Clone + 'static> Connecting<T> {
    /// The attempt under way, else a new one by `connect`. It goes on whether or not anybody waits for it; one that
    /// panics has failed, and the next is a new one.
    pub(crate) fn join<F>(&self, panics: &Panics, connect: impl FnOnce() -> F) -> Attempt<T>
    where
        F: Future<Output = Result<T, Reason>> + 'static,
    {
        let mut present = self.0.borrow_mut();
        if let Some(attempt) = &*present {
            return attempt.clone();
        }
        let (own, panics, connect) = (self.0.clone(), panics.clone(), connect());
        let attempt = async move {
            let made = panics.catch(connect).await.unwrap_or(Err(Reason::ConnectFailed));
            // Before anybody hears of it: who needs another connection must not be given this attempt again.
            own.borrow_mut().take();
            made
        };
        let attempt = attempt.boxed_local().shared();
        *present = Some(attempt.clone());
        tokio::task::spawn_local(attempt.clone().map(drop));
        attempt
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;
    use tokio::task::LocalSet;

    use super::*;

    #[tokio::test]
    async fn an_attempt_is_made_once_for_all_who_wait_and_also_when_nobody_does() {
        let (connecting, panics) = (Connecting::default(), Panics::default());
        let test = async {
            let (go, gone) = oneshot::channel::<()>();
            drop(connecting.join(&panics, || async move { gone.await.map(|()| 7).map_err(|_| Reason::ConnectFailed) }));
            let waiting = connecting.join(&panics, || async { Ok(8) });
            go.send(()).unwrap();
            assert_eq!(waiting.await, Ok(7));
            assert_eq!(connecting.join(&panics, || async { Ok(9) }).await, Ok(9), "the next is a new one");
        };
        LocalSet::new().run_until(test).await;
    }

    #[tokio::test]
    async fn an_attempt_that_panics_has_failed_for_all_who_wait_and_the_next_is_a_new_one() {
        let (connecting, panics) = (Connecting::default(), Panics::default());
        let test = async {
            let first = connecting.join(&panics, || async { panic!("a bug in the making of a connection") });
            let second = connecting.join(&panics, || async { Ok(()) });
            assert_eq!((first.await, second.await), (Err(Reason::ConnectFailed), Err(Reason::ConnectFailed)));
            assert_eq!(connecting.join(&panics, || async { Ok(()) }).await, Ok(()));
        };
        LocalSet::new().run_until(test).await;
        assert_eq!(panics.count(), 1);
    }
}
