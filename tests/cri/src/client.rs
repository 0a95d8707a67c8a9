//! CRI's calls, one after the other, as plain functions.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use k8s_cri::v1::image_service_client::ImageServiceClient;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use k8s_cri::v1::{self as cri};
use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::wait::slowness;

/// A call that was not answered as asked.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{call}: {code:?}: {message}")]
pub struct CallError {
    /// The call's name in CRI.
    pub call: &'static str,
    /// The gRPC status.
    pub code: tonic::Code,
    /// What containerd says.
    pub message: String,
}

/// A connection to containerd's CRI.
#[derive(Clone)]
pub struct Cri {
    runtime: Arc<Runtime>,
    channel: Channel,
}

/// Answers can hold the output of a command, which containerd cuts off at 16 MiB.
const MAX_MESSAGE_BYTES: usize = 32 << 20;

impl Cri {
    /// Prepares a connection, which the first call makes.
    ///
    /// # Errors
    ///
    /// If there are no threads to be had.
    pub fn new(socket: &Path) -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let socket = socket.to_owned();
        let connect = tower::service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(socket).await?)) }
        });
        // kubelet gives up on most calls after two minutes.
        let limit = Duration::from_secs(120) * slowness().min(3);
        let channel = {
            let _inside = runtime.enter();
            Endpoint::from_static("http://containerd")
                .timeout(limit)
                .connect_with_connector_lazy(connect)
        };
        Ok(Self {
            runtime: Arc::new(runtime),
            channel,
        })
    }

    fn call<T>(
        &self,
        call: &'static str,
        answer: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    ) -> Result<T, CallError> {
        match self.runtime.block_on(answer) {
            Ok(response) => Ok(response.into_inner()),
            Err(status) => Err(CallError {
                call,
                code: status.code(),
                message: status.message().to_owned(),
            }),
        }
    }
}

macro_rules! calls {
    ($client:ident: $($function:ident($request:ident) -> $response:ident, $call:literal;)*) => {
        impl Cri {
            $(
                #[doc = concat!("CRI's ", $call, ".")]
                ///
                /// # Errors
                ///
                /// Whatever containerd answers with.
                pub fn $function(&self, request: cri::$request) -> Result<cri::$response, CallError> {
                    let mut client = $client::new(self.channel.clone())
                        .max_decoding_message_size(MAX_MESSAGE_BYTES);
                    self.call($call, client.$function(request))
                }
            )*
        }
    };
}

calls! { RuntimeServiceClient:
    version(VersionRequest) -> VersionResponse, "Version";
    status(StatusRequest) -> StatusResponse, "Status";
    run_pod_sandbox(RunPodSandboxRequest) -> RunPodSandboxResponse, "RunPodSandbox";
    stop_pod_sandbox(StopPodSandboxRequest) -> StopPodSandboxResponse, "StopPodSandbox";
    remove_pod_sandbox(RemovePodSandboxRequest) -> RemovePodSandboxResponse, "RemovePodSandbox";
    pod_sandbox_status(PodSandboxStatusRequest) -> PodSandboxStatusResponse, "PodSandboxStatus";
    list_pod_sandbox(ListPodSandboxRequest) -> ListPodSandboxResponse, "ListPodSandbox";
    pod_sandbox_stats(PodSandboxStatsRequest) -> PodSandboxStatsResponse, "PodSandboxStats";
    list_pod_sandbox_stats(ListPodSandboxStatsRequest) -> ListPodSandboxStatsResponse,
        "ListPodSandboxStats";
    create_container(CreateContainerRequest) -> CreateContainerResponse, "CreateContainer";
    start_container(StartContainerRequest) -> StartContainerResponse, "StartContainer";
    stop_container(StopContainerRequest) -> StopContainerResponse, "StopContainer";
    remove_container(RemoveContainerRequest) -> RemoveContainerResponse, "RemoveContainer";
    list_containers(ListContainersRequest) -> ListContainersResponse, "ListContainers";
    container_status(ContainerStatusRequest) -> ContainerStatusResponse, "ContainerStatus";
    container_stats(ContainerStatsRequest) -> ContainerStatsResponse, "ContainerStats";
    list_container_stats(ListContainerStatsRequest) -> ListContainerStatsResponse,
        "ListContainerStats";
    update_container_resources(UpdateContainerResourcesRequest)
        -> UpdateContainerResourcesResponse, "UpdateContainerResources";
    reopen_container_log(ReopenContainerLogRequest) -> ReopenContainerLogResponse,
        "ReopenContainerLog";
    exec_sync(ExecSyncRequest) -> ExecSyncResponse, "ExecSync";
    exec(ExecRequest) -> ExecResponse, "Exec";
    attach(AttachRequest) -> AttachResponse, "Attach";
    port_forward(PortForwardRequest) -> PortForwardResponse, "PortForward";
}

calls! { ImageServiceClient:
    image_status(ImageStatusRequest) -> ImageStatusResponse, "ImageStatus";
    list_images(ListImagesRequest) -> ListImagesResponse, "ListImages";
    pull_image(PullImageRequest) -> PullImageResponse, "PullImage";
}
