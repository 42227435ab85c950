//! Requests the approvals that callers lack from the controller.

use durward_approvals::{RecentRequests, approval_spec};
use durward_controller_client::client::ControllerClient;
use durward_core::approval::ApprovalSubject;
use durward_runtime::Failure;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Requests the approvals that callers lack from the controller, until `shutdown`.
pub(super) async fn request_approvals(
    controller: ControllerClient,
    mut missing: mpsc::Receiver<ApprovalSubject>,
    shutdown: CancellationToken,
) -> Result<(), Failure> {
    let mut recent = RecentRequests::default();
    let requests = async {
        while let Some(subject) = missing.recv().await {
            if recent.insert(&subject)
                && let Err(error) = controller.request_approval(&approval_spec(&subject)).await
            {
                tracing::warn!(operation = &*subject.operation, %error, "an approval can't be requested");
            }
        }
    };
    tokio::select! {
        () = requests => {}
        () = shutdown.cancelled() => {}
    }
    Ok(())
}
