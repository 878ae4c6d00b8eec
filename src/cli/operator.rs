//! `eider operator`: waits for its definitions and its turn, then runs the controllers.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use k8s_openapi::api::core::v1::Pod;
use kube::client::ClientBuilder;
use kube::{Api, Client, Config};
use tower::timeout::TimeoutLayer;

use super::arguments::{GlobalArguments, Listen, OperatorArguments};
use super::daemon::serve_socket;
use super::output::{CliError, ExitCode, Output};
use super::session::{metrics, open_catalog, stop_signal};
use crate::catalog::Catalog;
use crate::operator::Operator;
use crate::operator::kubernetes::{
    self, ClusterLink, Election, GateLayer, Leadership, SignError, await_definitions, sign,
};
use crate::runtime::kubernetes::{KubernetesRuntime, Settings};
use crate::spec::Reason;
use crate::telemetry::Health;
use crate::web::{Server, public_router, waiting_router};

/// A stream that is silent for longer is dead: servers end watches after 295 s and say something before.
const SILENCE: Duration = Duration::from_mins(5);

fn unreachable(message: String) -> CliError {
    CliError::new(ExitCode::Unreachable, Reason::ClusterUnavailable, message)
        .hint("check KUBECONFIG, or run it in a pod with a service account")
}

/// Runs until SIGINT or SIGTERM, or until the lease is lost.
pub async fn operator(
    global: &GlobalArguments,
    arguments: &OperatorArguments,
    output: Output,
) -> Result<(), CliError> {
    let stop = stop_signal();
    tokio::pin!(stop);
    let configuration = Config::infer().await.map_err(|error| unreachable(error.to_string()))?;
    let patience = arguments.request_timeout;
    let plain = client(configuration.clone(), None, patience)?;
    let leadership = Leadership::of(arguments.lease_duration);
    let gated = client(configuration, Some(leadership.clone()), patience)?;
    let health = Arc::new(Health::starting(&["definitions", "leader"]));
    let router = serve(arguments, &health).await?;
    let identity = identity(arguments);
    let (image, image_pull_policy) = tokio::select! {
        image = mover_image(&plain, arguments) => image?,
        () = &mut stop => return Ok(()),
    };
    tokio::select! {
        () = await_definitions(&plain, &health) => {}
        () = &mut stop => return Ok(()),
    }
    // A follower is as ready as it can be: a rollout must not wait for it to lead.
    health.ready("leader");
    let mut election = Election::new(
        plain.clone(),
        &arguments.lease_namespace,
        &arguments.lease_name,
        &identity,
        leadership,
    );
    tracing::info!(identity, lease = arguments.lease_name, "waiting for the lease");
    tokio::select! {
        () = election.campaign() => {}
        () = &mut stop => return Ok(()),
    }
    let settings = Settings {
        image_pull_policy,
        image_pull_secrets: arguments.mover_image_pull_secrets.clone(),
        service_account: arguments.mover_service_account.clone(),
        cpu: arguments.mover_cpu.clone(),
        cpu_limit: arguments.mover_cpu_limit.clone(),
        memory: arguments.mover_memory.clone(),
        start_timeout: arguments.mover_start_timeout,
        deadline: arguments.mover_deadline,
        ..Settings::new(image)
    };
    let led =
        lead(global, arguments, &output, &health, &router, (gated, plain), settings, identity);
    let result = tokio::select! {
        result = led => result,
        () = election.keep() => Err(CliError::new(
            ExitCode::Failed,
            Reason::Interrupted,
            "the lease was lost; another replica leads by now",
        )
        .hint("this process ends, and starts again as a follower")),
        () = &mut stop => {
            tracing::info!("stopping: what is under way is picked up by whoever leads next");
            Ok(())
        }
    };
    health.stopping();
    election.resign().await;
    result
}

/// Opens the catalog and runs the controllers.
#[expect(clippy::too_many_arguments, reason = "the pieces of a process, put together once")]
async fn lead(
    global: &GlobalArguments,
    arguments: &OperatorArguments,
    output: &Output,
    health: &Arc<Health>,
    router: &OnceLock<Router>,
    (gated, plain): (Client, Client),
    settings: Settings,
    identity: String,
) -> Result<(), CliError> {
    health.waiting("catalog", "the catalog is opened");
    let catalog = open_patiently(global, output, health).await?;
    health.ready("catalog");
    let runtime = KubernetesRuntime::new(gated.clone(), settings);
    let link = ClusterLink::new(gated, runtime, Some(identity.clone()));
    let concurrency = usize::from(arguments.concurrency);
    let operator = Operator::new(catalog.clone(), metrics()?, None, concurrency).with_cluster(link);
    let knows = knows_what_was_done(&catalog, &plain, arguments, &identity, operator.session());
    let knows = knows.await?;
    let server = Server {
        operator: operator.clone(),
        health: Arc::clone(health),
        catalog: global.catalog.clone().into(),
    };
    let _ = router.set(public_router(server.clone()));
    // For `kubectl exec … eider backup list`: a catalog has one holder, and that is this process.
    let _socket = match serve_socket(&global.socket, server) {
        Ok(socket) => Some(socket),
        Err(error) => {
            tracing::warn!("`eider` beside this process finds no socket: {}", error.message);
            None
        }
    };
    // Watches only read: they go round the gate, which is about writing.
    let never = std::future::pending();
    let watching = operator.clone().watch_catalog(Arc::clone(health));
    tokio::select! {
        result = kubernetes::run(operator, plain, &arguments.namespaces, knows, health, never) => {
            result.map_err(CliError::from)
        }
        () = watching => Ok(()),
    }
}

/// Whether the catalog is that of whoever led last. Another one, of a replica that leads again, does not know how
/// what it had begun went on.
async fn knows_what_was_done(
    catalog: &Catalog,
    client: &Client,
    arguments: &OperatorArguments,
    identity: &str,
    session: &str,
) -> Result<bool, CliError> {
    let own = catalog.state().await?.and_then(|state| state.state_data.session);
    loop {
        let lease = (arguments.lease_namespace.as_str(), arguments.lease_name.as_str());
        match sign(client, lease, identity, session).await {
            Ok(last) => return Ok(last.is_some() && last == own),
            Err(error @ SignError::Lost(_)) => {
                return Err(CliError::new(
                    ExitCode::Failed,
                    Reason::Interrupted,
                    error.to_string(),
                )
                .hint("this process ends, and starts again as a follower"));
            }
            // For as long as it takes: without a server the lease is lost soon.
            Err(error) => tracing::warn!("the lease cannot be signed yet: {error}"),
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// How long the catalog is tried to be opened, in seconds. Whoever led before may still be closing it,
/// and a volume may be put right meanwhile; past that another replica, with a volume that works, is
/// let to lead.
const CATALOG_PATIENCE: u32 = 60;

/// Opens the catalog; while that fails, `/readyz` and the log say why.
async fn open_patiently(
    global: &GlobalArguments,
    output: &Output,
    health: &Health,
) -> Result<Catalog, CliError> {
    let mut tries = 0;
    loop {
        let mut error = match open_catalog(&global.catalog, output).await {
            Ok((catalog, _)) => return Ok(catalog),
            Err(error) => error,
        };
        if error.reason != Reason::TargetBusy {
            error = error.hint(
                "the volume of the catalog has to be writable for the user of this process (65532 in \
                 deploy/, with fsGroup; hostPath and some NFS volumes ignore fsGroup)",
            );
        }
        if tries >= CATALOG_PATIENCE {
            return Err(error);
        }
        if tries % 10 == 0 {
            tracing::warn!("the catalog cannot be opened yet: {}", error.message);
        }
        health.waiting("catalog", &error.message);
        tries += 1;
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    }
}

/// A client whose requests end: a connection that has gone silent, as those through a NAT that has
/// forgotten them, must not hold up an operation while its service stands still.
fn client(
    mut configuration: Config,
    gate: Option<Leadership>,
    patience: Duration,
) -> Result<Client, CliError> {
    configuration.read_timeout = Some(SILENCE);
    let broken = |error: kube::Error| unreachable(format!("the cluster's configuration: {error}"));
    let builder = ClientBuilder::try_from(configuration).map_err(broken)?;
    // Until the answer begins; what it holds may take longer.
    let builder = builder.with_layer(&TimeoutLayer::new(patience));
    Ok(match gate {
        Some(leadership) => builder.with_layer(&GateLayer(leadership)).build(),
        None => builder.build(),
    })
}

fn identity(arguments: &OperatorArguments) -> String {
    arguments
        .identity
        .clone()
        .unwrap_or_else(|| format!("{}-{}", crate::runtime::host::host_name(), std::process::id()))
}

/// The image that movers run and when it is pulled: as told, or as for this pod.
async fn mover_image(
    client: &Client,
    arguments: &OperatorArguments,
) -> Result<(String, Option<String>), CliError> {
    let policy = arguments.mover_image_pull_policy.clone();
    if let Some(image) = &arguments.mover_image {
        return Ok((image.clone(), policy));
    }
    let unknown = |why: String| {
        CliError::new(ExitCode::Usage, Reason::InvalidSpec, format!("no image for movers: {why}"))
            .hint("set --mover-image or EIDER_IMAGE to Eider's own image")
    };
    let Some(name) = &arguments.identity else {
        return Err(unknown("this is not a pod".to_owned()));
    };
    let pods: Api<Pod> = Api::namespaced(client.clone(), &arguments.lease_namespace);
    let pod = pods.get(name).await.map_err(|error| unknown(error.to_string()))?;
    let container = pod.spec.and_then(|spec| spec.containers.into_iter().next());
    // With its policy: the default for `:latest` is to pull what may be in no registry.
    let own = container.as_ref().and_then(|container| container.image_pull_policy.clone());
    let image = container.and_then(|container| container.image);
    let image = image.ok_or_else(|| unknown(format!("pod {name} names none")))?;
    Ok((image, policy.or(own)))
}

/// Serves health at once, and everything else as soon as this process leads.
async fn serve(
    arguments: &OperatorArguments,
    health: &Arc<Health>,
) -> Result<Arc<OnceLock<Router>>, CliError> {
    let full: Arc<OnceLock<Router>> = Arc::default();
    if let Listen::At(address) = arguments.listen {
        let listener = tokio::net::TcpListener::bind(address).await.map_err(|error| {
            CliError::new(
                ExitCode::Failed,
                Reason::InternalError,
                format!("cannot listen on {address}: {error}"),
            )
            .hint("choose another address with --listen, or `--listen off`")
        })?;
        tracing::info!(%address, "serving metrics, health and the read-only API");
        let router = waiting_router(Arc::clone(health), Arc::clone(&full));
        tokio::spawn(crate::web::serve(listener, router, crate::web::ConnectionLimits::default()));
    }
    Ok(full)
}
