//! Submissions that cannot be decided yet.

use daybook_kernel::StreamName;
use foldhash::HashSet;

use super::Job;

/// Submissions that wait until something is loaded, in their order.
#[derive(Default)]
pub(super) struct Waiting {
    jobs: Vec<Job>,
    streams: HashSet<StreamName>,
}

impl Waiting {
    pub(super) fn push(&mut self, job: Job) {
        self.streams.extend(job.streams().map(|(stream, _)| stream.clone()));
        self.jobs.push(job);
    }

    /// Takes out all of them.
    pub(super) fn take(&mut self) -> Vec<Job> {
        self.streams.clear();
        std::mem::take(&mut self.jobs)
    }

    /// Whether a job has to wait behind one of these: it names a stream that one of them names,
    /// and overtaking it would change the order in which that stream is decided about.
    pub(super) fn hold_up(&self, job: &Job) -> bool {
        !self.jobs.is_empty() && job.streams().any(|(stream, _)| self.streams.contains(stream))
    }

    /// Whether one of these names a stream.
    pub(super) fn need(&self, stream: &StreamName) -> bool {
        self.streams.contains(stream)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.jobs.len()
    }
}
