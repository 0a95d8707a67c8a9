use std::future::Future;

use containerd_shim_protos::ttrpc::proto::MessageHeader;
use sandbox::logging;
use tempfile::TempDir;

use super::*;
use crate::testing;

fn pod() -> Arc<Pod> {
    testing::pod().0
}

fn run(work: impl Future<Output = ()>) {
    logging::init("test", None);
    testing::run(work);
}

fn context() -> TtrpcContext {
    TtrpcContext {
        mh: MessageHeader::default(),
        metadata: std::collections::HashMap::new(),
        timeout_nano: 0,
    }
}

fn refusal<T: std::fmt::Debug>(answer: ttrpc::Result<T>) -> (Code, String) {
    match answer.unwrap_err() {
        ttrpc::Error::RpcStatus(status) => (status.code(), status.message),
        other => panic!("no status: {other}"),
    }
}

/// A request whose members of these names are set.
macro_rules! request {
    ($kind:ident { $($field:ident: $value:expr),* $(,)? }) => {
        $kind { $($field: $value.into(),)* ..Default::default() }
    };
}

#[test]
fn calls_about_what_is_not_there_name_it() {
    run(async {
        let service = Service::new(pod());
        let context = &context();
        let mut refused = Vec::new();
        macro_rules! call {
            ($method:ident, $kind:ident) => {
                let answer = service.$method(context, request!($kind { id: "ghost" }));
                refused.push((stringify!($method), refusal(answer.await)));
            };
        }
        call!(state, StateRequest);
        call!(start, StartRequest);
        call!(delete, DeleteRequest);
        call!(exec, ExecProcessRequest);
        call!(kill, KillRequest);
        call!(wait, WaitRequest);
        call!(pids, PidsRequest);
        call!(pause, PauseRequest);
        call!(resume, ResumeRequest);
        call!(resize_pty, ResizePtyRequest);
        call!(close_io, CloseIORequest);
        call!(update, UpdateTaskRequest);
        call!(stats, StatsRequest);
        for (call, (code, message)) in refused {
            assert_eq!(code, Code::NOT_FOUND, "{call}: {message}");
            assert!(message.contains("ghost"), "{call}: {message}");
        }
        let answer = service
            .checkpoint(context, CheckpointTaskRequest::new())
            .await;
        assert_eq!(refusal(answer).0, Code::UNIMPLEMENTED);
    });
}

/// Create with this configuration; none leaves config.json out.
async fn create(service: &Service, config: Option<&str>) -> (Code, String) {
    let bundle = TempDir::new().unwrap();
    if let Some(config) = config {
        std::fs::write(bundle.path().join("config.json"), config).unwrap();
    }
    let path = bundle.path().display().to_string();
    let request = request!(CreateTaskRequest {
        id: "one",
        bundle: path
    });
    refusal(service.create(&context(), request).await)
}

#[test]
fn a_task_that_cannot_be_is_not_there_afterwards() {
    const MEMBER: &str = r#"{"annotations":{"io.kubernetes.cri.container-type":"container",
        "io.kubernetes.cri.sandbox-id":"pod"}}"#;
    const OWN: &str = r#"{"annotations":{"io.podvmm.kernel":"/boot/vmlinuz"}}"#;
    const HOST: &str = r#"{"process":{},"linux":{"namespaces":[{"type":"pid"},{"type":"ipc"}]}}"#;
    run(async {
        let service = Service::new(pod());
        for (config, word) in [
            (None, "config.json"),
            (Some("{"), "config.json"),
            (Some(OWN), "io.podvmm.kernel"),
            (Some(HOST), "hostNetwork"),
            // A container comes before its pod.
            (Some(MEMBER), "the pod has no VM"),
        ] {
            let (_, message) = create(&service, config).await;
            assert!(message.contains(word), "{config:?}: {message}");
        }
        let context = context();
        let answer = service.state(&context, request!(StateRequest { id: "one" }));
        assert_eq!(refusal(answer.await).0, Code::NOT_FOUND);
    });
}

#[test]
fn a_sandboxs_calls_out_of_order() {
    run(async {
        let pod = pod();
        let service = Service::new(Arc::clone(&pod));
        let init = Process::new(Paths::default(), None, None);
        pod.adopt(Task::new("pod", "/bundle".into(), Kind::Sandbox, init))
            .await;
        let context = &context();
        let delete = || service.delete(context, request!(DeleteRequest { id: "pod" }));
        let start = || service.start(context, request!(StartRequest { id: "pod" }));
        let kill = || {
            service.kill(
                context,
                request!(KillRequest {
                    id: "pod",
                    signal: SIGKILL
                }),
            )
        };
        start().await.unwrap();
        assert_eq!(refusal(start().await).0, Code::FAILED_PRECONDITION);
        let (code, message) = refusal(delete().await);
        assert_eq!(code, Code::FAILED_PRECONDITION);
        assert!(message.contains("kill it first"), "{message}");
        let exec = request!(ExecProcessRequest {
            id: "pod",
            exec_id: "sh"
        });
        assert!(
            refusal(service.exec(context, exec).await)
                .1
                .contains("name a container")
        );
        // Whoever shuts down with a task left is told yes, and nothing happens.
        service
            .shutdown(context, ShutdownRequest::new())
            .await
            .unwrap();
        kill().await.unwrap();
        kill().await.unwrap();
        let ended = service
            .wait(context, request!(WaitRequest { id: "pod" }))
            .await;
        assert_eq!(ended.unwrap().exit_status, KILLED);
        assert_eq!(delete().await.unwrap().exit_status, KILLED);
        assert_eq!(refusal(delete().await).0, Code::NOT_FOUND);
        assert_eq!(refusal(kill().await).0, Code::NOT_FOUND);
    });
}

#[test]
fn what_never_started_is_killed_and_deleted() {
    run(async {
        let pod = pod();
        let service = Service::new(Arc::clone(&pod));
        let created = async |pod: &Pod| {
            let init = Process::new(Paths::default(), None, None);
            pod.adopt(Task::new("pod", "/bundle".into(), Kind::Sandbox, init))
                .await;
        };
        let context = &context();
        created(&pod).await;
        let delete = request!(DeleteRequest { id: "pod" });
        assert_eq!(
            service
                .delete(context, delete.clone())
                .await
                .unwrap()
                .exit_status,
            0
        );
        let pod = self::pod();
        let service = Service::new(Arc::clone(&pod));
        created(&pod).await;
        let kill = request!(KillRequest {
            id: "pod",
            signal: SIGKILL
        });
        service.kill(context, kill).await.unwrap();
        let start = service
            .start(context, request!(StartRequest { id: "pod" }))
            .await;
        assert_eq!(refusal(start).0, Code::FAILED_PRECONDITION);
        assert_eq!(
            service.delete(context, delete).await.unwrap().exit_status,
            KILLED
        );
    });
}

#[test]
fn what_is_made_while_the_vm_ends_has_ended_with_it() {
    run(async {
        let pod = pod();
        let service = Service::new(Arc::clone(&pod));
        pod.halt(0).await;
        let init = Process::new(Paths::default(), None, None);
        pod.adopt(Task::new("late", "/bundle".into(), Kind::Sandbox, init))
            .await;
        let context = context();
        let wait = service.wait(&context, request!(WaitRequest { id: "late" }));
        let ended = tokio::time::timeout(Duration::from_secs(10), wait).await;
        let ended = ended.expect("nobody tells of its end");
        assert_eq!(ended.unwrap().exit_status, 0);
    });
}
