//! A connection that gathers what is written to it.
//!
//! The answers to a group of commands become known at the same moment, and each of them wakes the
//! task of its connection, which would write it to the socket at once: a system call and a packet
//! for each answer. Here the first wish to flush lets the tasks that can run go first, so that
//! their answers share one write. Nothing waits for time to pass, and where nobody else has
//! anything to write, most flushes are done at once.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

/// So much is gathered at most; then it is written. More would be copied for nothing.
const MOST: usize = 32 * 1024;

/// After letting others go first for nothing, so many flushes are done at once.
const AT_ONCE: u32 = 16;

/// The connection.
#[derive(Debug)]
pub struct Gather<IO> {
    io: IO,
    gathered: BytesMut,
    /// How much was gathered when the others were let go first; `None` while it is not their turn.
    deferred: Option<usize>,
    /// How many flushes will be done at once.
    at_once: u32,
}

impl<IO> Gather<IO> {
    /// Gathers what is written to a connection.
    pub fn new(io: IO) -> Self {
        Self { io, gathered: BytesMut::new(), deferred: None, at_once: 0 }
    }
}

impl<IO: AsyncWrite + Unpin> Gather<IO> {
    /// Writes everything gathered so far to the connection.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.gathered.is_empty() {
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, &self.gathered))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.gathered.advance(written);
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Gather<IO> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.gathered.len() >= MOST {
            ready!(this.poll_drain(cx))?;
        }
        let length: usize = slices.iter().map(|slice| slice.len()).sum();
        if this.gathered.is_empty() && length >= MOST {
            return Pin::new(&mut this.io).poll_write_vectored(cx, slices);
        }
        slices.iter().for_each(|slice| this.gathered.extend_from_slice(slice));
        Poll::Ready(Ok(length))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let gathered = this.gathered.len();
        match this.deferred.take() {
            Some(before) if before == gathered => this.at_once = AT_ONCE,
            None if gathered > 0 && this.at_once == 0 => {
                // A task that wakes itself comes after all that are ready.
                this.deferred = Some(gathered);
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            None if gathered > 0 => this.at_once -= 1,
            _ => {}
        }
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.io).poll_shutdown(cx)
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Gather<IO> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_read(cx, into)
    }
}

impl<IO: Connected> Connected for Gather<IO> {
    type ConnectInfo = IO::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.io.connect_info()
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use futures::poll;
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    /// Takes everything, and remembers each write.
    #[derive(Default)]
    struct Writes(Vec<Vec<u8>>);

    impl AsyncWrite for Writes {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.0.push(bytes.to_vec());
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn what_others_write_meanwhile_goes_out_with_it() {
        let mut connection = Gather::new(Writes::default());
        for round in 0..2 {
            connection.write_all(b"one").await.unwrap();
            let mut cx = Context::from_waker(Waker::noop());
            assert!(Pin::new(&mut connection).poll_flush(&mut cx).is_pending());
            connection.write_all(b"two").await.unwrap();
            connection.flush().await.unwrap();
            assert_eq!(connection.io.0.len(), round + 1);
            assert_eq!(connection.io.0[round], b"onetwo");
        }
        // Nothing to write is nothing to wait for.
        assert!(poll!(std::pin::pin!(connection.flush())).is_ready());
    }

    #[tokio::test]
    async fn who_is_alone_seldom_lets_others_go_first() {
        let mut connection = Gather::new(Writes::default());
        let mut waited = 0;
        for _ in 0..10 * (AT_ONCE + 1) {
            connection.write_all(b"one").await.unwrap();
            let mut cx = Context::from_waker(Waker::noop());
            while Pin::new(&mut connection).poll_flush(&mut cx).is_pending() {
                waited += 1;
            }
        }
        assert_eq!(waited, 10);
    }

    #[tokio::test]
    async fn a_flush_is_done_without_anybody_else() {
        let mut connection = Gather::new(Writes::default());
        connection.write_all(b"one").await.unwrap();
        connection.flush().await.unwrap();
        assert_eq!(connection.io.0, [b"one"]);
        connection.write_all(b"two").await.unwrap();
        connection.shutdown().await.unwrap();
        assert_eq!(connection.io.0, [b"one", b"two"]);
    }

    proptest! {
        #[test]
        fn everything_arrives_in_order(
            writes in prop::collection::vec((0_usize..80_000, any::<bool>()), 0..12),
            room in 1_usize..5_000,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let (near, mut far) = duplex(room);
                let mut connection = Gather::new(near);
                let total: usize = writes.iter().map(|(length, _)| length).sum();
                let bytes: Vec<u8> = (0..total).map(|at| (at % 251) as u8).collect();
                let sent = async {
                    let mut from = 0;
                    for (length, flush) in writes {
                        connection.write_all(&bytes[from..from + length]).await.unwrap();
                        from += length;
                        if flush {
                            connection.flush().await.unwrap();
                        }
                    }
                    connection.shutdown().await.unwrap();
                    drop(connection);
                };
                let mut arrived = Vec::new();
                let (_, read) = futures::join!(sent, far.read_to_end(&mut arrived));
                read.unwrap();
                assert!(arrived == bytes, "{} of {total} bytes arrived right", arrived.len());
            });
        }
    }
}
