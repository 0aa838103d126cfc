//! Runs a set of projections over one directory.

use std::fs::{self, File, TryLockError};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use daybook_bus::source::{LogReader, SourceFactory};
use daybook_contract::daybook::v1::{ErrorReason, ProjectionStatus};
use daybook_contract::error::Error as ApiError;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinSet;

use super::{Environment, Handle, Settings, Started};

/// How often the end of the log is looked up and the gauges are set. A source need not know the
/// end: a reader of a topic that is full of old records does not.
const INTERVAL: Duration = Duration::from_secs(1);

/// Why projections cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory cannot be used.
    #[error("{path} cannot be used: {source}")]
    Directory {
        /// The directory, or a file in it.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Another process uses the directory.
    #[error("{path} is locked: another process runs the projections in this directory")]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
}

/// Running projections. They stop when this is dropped; [`Host::shutdown`] stops them in order.
pub struct Host {
    handles: Arc<[Handle]>,
    all: Vec<Handle>,
    stop: watch::Sender<bool>,
    tasks: Mutex<JoinSet<()>>,
    /// Held as long as the projections may run.
    _lock: File,
}

impl Host {
    /// Runs the projections that `start` makes. Returns at once: what they are doing is in their
    /// status.
    pub fn open(
        settings: Settings,
        factory: Arc<dyn SourceFactory>,
        log: Arc<dyn LogReader>,
        start: impl FnOnce(&Environment) -> Vec<Started>,
    ) -> Result<Self, OpenError> {
        let lock = lock(&settings)?;
        let (stop, stopping) = watch::channel(false);
        let environment =
            Environment { settings: Arc::new(settings), factory, log, stop: stopping };
        let mut tasks = JoinSet::new();
        let mut handles = Vec::new();
        for Started { handle, task } in start(&environment) {
            handles.push(handle);
            tasks.spawn(task);
        }
        handles.sort_by_key(Handle::name);
        let all = handles.clone();
        handles.retain(|handle| handle.shared.runs);
        let handles: Arc<[Handle]> = handles.into();
        tasks.spawn(watch_over(handles.clone(), environment.log, environment.stop));
        Ok(Self { handles, all, stop, tasks: Mutex::new(tasks), _lock: lock })
    }

    /// The projections, by name.
    pub fn handles(&self) -> &Arc<[Handle]> {
        &self.handles
    }

    /// The projections with those that are left to other processes, whose queries are refused.
    pub fn all_handles(&self) -> &[Handle] {
        &self.all
    }

    /// Becomes true when the projections are to stop.
    pub fn stopping(&self) -> watch::Receiver<bool> {
        self.stop.subscribe()
    }

    /// How the projections are doing, by name.
    pub fn statuses(&self) -> Vec<ProjectionStatus> {
        self.handles.iter().map(Handle::status).collect()
    }

    /// Stops the projections at a batch boundary and closes their files. What was published is
    /// kept, and nothing has to be repaired at the next start.
    pub async fn shutdown(&self) {
        self.stop.send_replace(true);
        let mut tasks = self.tasks.lock().await;
        while let Some(ended) = tasks.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "a projection's task failed");
            }
        }
    }
}

/// Finds a projection by its name.
pub(crate) fn find<'a>(handles: &'a [Handle], name: &str) -> Result<&'a Handle, ApiError> {
    handles.iter().find(|handle| handle.name() == name).ok_or_else(|| {
        let text = format!("there is no projection {name:?}");
        ApiError::new(ErrorReason::ProjectionNotFound, text).with_resource("projection", name)
    })
}

fn lock(settings: &Settings) -> Result<File, OpenError> {
    let dir = &settings.data_dir;
    let failed = |path: &PathBuf, source| OpenError::Directory { path: path.clone(), source };
    fs::create_dir_all(dir).map_err(|error| failed(dir, error))?;
    let path = dir.join("projections.lock");
    let file = File::create(&path).map_err(|error| failed(&path, error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::Locked { path }),
        Err(TryLockError::Error(error)) => Err(failed(&path, error)),
    }
}

async fn watch_over(
    handles: Arc<[Handle]>,
    log: Arc<dyn LogReader>,
    mut stop: watch::Receiver<bool>,
) {
    loop {
        // While the log is away, the sources tell what they know.
        if let Ok(Ok(head)) = tokio::time::timeout(INTERVAL, log.head()).await {
            for handle in handles.iter() {
                handle.shared.update(|progress| progress.head = progress.head.max(head));
            }
        }
        handles.iter().for_each(set_gauges);
        if let Ok(ended) = tokio::time::timeout(INTERVAL, stop.wait_for(|stop| *stop)).await {
            drop(ended);
            return;
        }
    }
}

fn set_gauges(handle: &Handle) {
    let (projection, status) = (handle.name(), handle.status());
    metrics::gauge!("daybook_projection_lag_events", "projection" => projection)
        .set(status.lag_events as f64);
    metrics::gauge!("daybook_projection_lag_seconds", "projection" => projection)
        .set(status.lag_seconds);
    metrics::gauge!("daybook_projection_position", "projection" => projection)
        .set(status.position as f64);
    metrics::gauge!("daybook_quarantined_events", "projection" => projection)
        .set(status.quarantined_events as f64);
}
