//! Work that blocks, such as that of SQLite, on threads where it may. The way there and back is paid
//! for once a piece of work, not once a statement.

use tokio::task::{JoinError, spawn_blocking};

/// Something that works only on threads where it may block.
pub(crate) struct Offload<T> {
    /// Not here while it works, nor after work that panicked or whose end nobody waited for.
    inside: Option<T>,
}

impl<T: Send + 'static> Offload<T> {
    /// Makes it, on such a thread.
    pub async fn make<E: From<JoinError> + Send + 'static>(
        make: impl FnOnce() -> Result<T, E> + Send + 'static,
    ) -> Result<Self, E> {
        Ok(Self { inside: Some(spawn_blocking(make).await??) })
    }

    /// Lets it work. It is gone when the work panics. When nobody waits for the end of the work,
    /// that is done all the same, and then it is gone as well.
    pub async fn run<R: Send + 'static, E: From<JoinError> + Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut T) -> Result<R, E> + Send + 'static,
    ) -> Result<R, E> {
        let mut inside = self.inside.take().expect("it is not used any more when it is gone");
        let working = spawn_blocking(move || {
            let result = work(&mut inside);
            (inside, result)
        });
        let (inside, result) = working.await?;
        self.inside = Some(inside);
        result
    }

    /// Lets it do its last work.
    pub async fn end<E: From<JoinError> + Send + 'static>(
        self,
        work: impl FnOnce(T) -> Result<(), E> + Send + 'static,
    ) -> Result<(), E> {
        let Some(inside) = self.inside else { return Ok(()) };
        spawn_blocking(move || work(inside)).await?
    }

    /// A look at what needs no work.
    pub fn get(&self) -> &T {
        self.inside.as_ref().expect("it is not used any more when it is gone")
    }

    /// The same, to change it.
    pub fn get_mut(&mut self) -> &mut T {
        self.inside.as_mut().expect("it is not used any more when it is gone")
    }
}
