//! What containerd is told without asking.
//!
//! Events wait in a bounded queue until containerd has taken them, in their order: also over a restart of
//! containerd.

use std::time::{Duration, SystemTime};

use containerd_shim_protos::events::task::{
    TaskCreate, TaskDelete, TaskExecAdded, TaskExecStarted, TaskExit, TaskIO, TaskOOM, TaskPaused,
    TaskResumed, TaskStart,
};
use containerd_shim_protos::protobuf::MessageFull;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::shim::event::Envelope;
use containerd_shim_protos::shim::events::ForwardRequest;
use containerd_shim_protos::shim_async::{Client, EventsClient};
use containerd_shim_protos::{topics, ttrpc};
use tokio::sync::mpsc;

use crate::process::timestamp;

/// Environment variable in which containerd names its socket for events.
const ADDRESS_VARIABLE: &str = "TTRPC_ADDRESS";
/// Most events that wait.
const QUEUE: usize = 1024;
/// Between two attempts to reach containerd.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);
/// How long containerd may take for one event.
const FORWARD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the last events may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// An event that has a topic.
pub trait Event: MessageFull {
    /// Where it is published.
    const TOPIC: &'static str;
}

macro_rules! topics {
    ($($event:ty => $topic:ident),* $(,)?) => {
        $(impl Event for $event { const TOPIC: &'static str = topics::$topic; })*
    };
}

topics! {
    TaskCreate => TASK_CREATE_EVENT_TOPIC,
    TaskStart => TASK_START_EVENT_TOPIC,
    TaskExit => TASK_EXIT_EVENT_TOPIC,
    TaskDelete => TASK_DELETE_EVENT_TOPIC,
    TaskExecAdded => TASK_EXEC_ADDED_EVENT_TOPIC,
    TaskExecStarted => TASK_EXEC_STARTED_EVENT_TOPIC,
    TaskPaused => TASK_PAUSED_EVENT_TOPIC,
    TaskResumed => TASK_RESUMED_EVENT_TOPIC,
    TaskOOM => TASK_OOM_EVENT_TOPIC,
}

/// The way to containerd.
#[derive(Debug)]
pub struct Publisher {
    namespace: String,
    queue: mpsc::Sender<Envelope>,
    sending: tokio::sync::Mutex<Option<tokio::task::JoinHandle<()>>>,
}

impl Publisher {
    /// Publishes in `namespace`, to the address in the environment.
    pub fn new(namespace: &str) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let address = std::env::var(ADDRESS_VARIABLE).unwrap_or_default();
        Self {
            namespace: namespace.to_owned(),
            queue,
            sending: tokio::sync::Mutex::new(Some(tokio::spawn(send_all(address, waiting)))),
        }
    }

    /// Puts an event into the queue.
    pub fn publish<E: Event>(&self, event: &E) {
        let any = Any {
            type_url: E::descriptor().full_name().to_owned(),
            value: event.write_to_bytes().unwrap_or_default(),
            ..Default::default()
        };
        let envelope = Envelope {
            timestamp: Some(timestamp(SystemTime::now())).into(),
            namespace: self.namespace.clone(),
            topic: E::TOPIC.to_owned(),
            event: Some(any).into(),
            ..Default::default()
        };
        if self.queue.try_send(envelope).is_err() {
            log::warn!("an event for {} is lost: containerd takes none", E::TOPIC);
        }
    }

    /// How many events wait.
    #[cfg(test)]
    pub fn waiting(&self) -> usize {
        QUEUE - self.queue.capacity()
    }

    /// Waits for the queue to be taken, though not for ever. Nothing can be published afterwards.
    pub async fn close(&self) {
        let Some(sending) = self.sending.lock().await.take() else {
            return;
        };
        // An empty topic is the end.
        let end = self.queue.send(Envelope::new());
        let all = async {
            let _ = end.await;
            let _ = sending.await;
        };
        if tokio::time::timeout(CLOSE_TIMEOUT, all).await.is_err() {
            log::warn!("the last events are lost: containerd does not take them");
        }
    }
}

async fn send_all(address: String, mut waiting: mpsc::Receiver<Envelope>) {
    let mut client = None;
    while let Some(envelope) = waiting.recv().await {
        if envelope.topic.is_empty() {
            return;
        }
        if address.is_empty() {
            continue;
        }
        let request = ForwardRequest {
            envelope: Some(envelope).into(),
            ..Default::default()
        };
        while let Err(error) = forward(&address, &mut client, &request).await {
            log::debug!("containerd does not take an event: {error}");
            client = None;
            tokio::time::sleep(RETRY_INTERVAL).await;
        }
    }
}

async fn forward(
    address: &str,
    client: &mut Option<EventsClient>,
    request: &ForwardRequest,
) -> ttrpc::Result<()> {
    let client = match client {
        Some(client) => client,
        None => {
            let connection = Client::connect(&format!("unix://{address}")).await?;
            client.insert(EventsClient::new(connection))
        }
    };
    let timeout = i64::try_from(FORWARD_TIMEOUT.as_nanos()).unwrap_or(i64::MAX);
    let context = ttrpc::context::with_timeout(timeout);
    match client.forward(context, request).await {
        Ok(_) => Ok(()),
        // It was heard, and is not wanted: saying it again would not help.
        Err(ttrpc::Error::RpcStatus(status)) => {
            log::warn!("containerd refused an event: {}", status.message);
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// A process's streams as events tell them.
pub fn task_io(paths: &crate::streams::Paths) -> TaskIO {
    TaskIO {
        stdin: paths.stdin.clone(),
        stdout: paths.stdout.clone(),
        stderr: paths.stderr.clone(),
        terminal: paths.terminal,
        ..Default::default()
    }
}
