//! Asking a mover and waiting for its answer, whatever happens to it meanwhile.
//!
//! Every turn looks at the cluster first: there may be no mover yet, one that starts, one that works
//! (perhaps since before this process was born), one that has answered, or the remains of one.

use std::time::{Duration, Instant};

use futures_util::io::{AsyncBufReadExt, BufReader};
use futures_util::{AsyncBufRead, StreamExt};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Pod, Toleration};
use kube::api::{
    ApiResource, DynamicObject, GroupVersionKind, ListParams, LogParams, Patch, PatchParams,
    PostParams,
};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use tracing::{info, warn};

use super::asked::{asked, is_interruptible, was_asked, was_begun, with_what_it_missed};
use super::claims;
use super::cluster::{Cluster, FIELD_MANAGER, failure, is_missing};
use super::ending::is_at_work;
use super::mover_job::{self, Identity, MoverPlan};
use super::names::{self, MOVER_CONTAINER, OPERATION_LABEL, ROOT_MOVERS_ANNOTATION};
use super::pod_state::{PodState, judge};
use super::starting::Warnings;
use crate::plan::{Failure, OperationId};
use crate::runtime::mover::{Mission, Request, STEPS_ANNOTATION, Saying};
use crate::runtime::{BoxFuture, Handles};
use crate::spec::{API_VERSION, MoverSecurityContext, Reason};

/// Who is asked, and what is needed to make it.
pub struct Conversation<'a> {
    /// The cluster.
    pub cluster: &'a Cluster,
    /// Where the mover is.
    pub namespace: &'a str,
    /// The operation, or a made-up one for work on a store.
    pub operation: &'a OperationId,
    /// Twelve characters that its movers are named after and found by.
    pub key: String,
    /// What a new mover is told.
    pub mission: Mission,
    /// Claims of the target.
    pub claims: Vec<String>,
    /// Whether they are written to.
    pub writes: bool,
    /// Claim of the store.
    pub store_claim: String,
    /// As whom it reads and writes where it may not be root.
    pub identity: MoverSecurityContext,
    /// Taints that the workload's pods tolerate, for when none of them is there to be beside.
    pub tolerations: Vec<Toleration>,
    /// Progress and cancellation.
    pub handles: &'a Handles,
}

/// How a look at the log ended.
enum Heard {
    /// The answer.
    Answer(Result<Value, Failure>),
    /// The log ended without it.
    Silence,
    /// The operation was cancelled meanwhile.
    Cancelled,
}

/// The movers of an operation as they are now.
#[derive(Default)]
struct Newest {
    /// The number of the newest, from 1; 0 if there is none.
    attempt: u32,
    /// Its pod.
    pod: Option<Pod>,
    /// Whether an earlier one is still at work.
    others: bool,
    /// Whether its Job says that it has ended, however.
    ended: bool,
    /// The UID of its Job, as long as the Job has never had a pod.
    unborn: Option<String>,
}

fn job_has_ended(job: &Job) -> bool {
    let conditions = job.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| {
        condition.status == "True" && matches!(condition.type_.as_str(), "Failed" | "Complete")
    })
}

/// The log of the mover, whoever else is in its pod.
fn of_mover() -> LogParams {
    LogParams { container: Some(MOVER_CONTAINER.to_owned()), ..LogParams::default() }
}

/// Whether no pod of the Job was ever counted.
fn has_had_no_pod(job: &Job) -> bool {
    let status = job.status.clone().unwrap_or_default();
    [status.active, status.succeeded, status.failed].iter().all(|count| count.unwrap_or(0) == 0)
}

/// A mover that says nothing for this long is listened to by a stream of its own.
const LISTEN_ANEW: Duration = Duration::from_secs(20);

impl Conversation<'_> {
    pub(super) fn jobs(&self) -> Api<Job> {
        Api::namespaced(self.cluster.client.clone(), self.namespace)
    }

    pub(super) fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.cluster.client.clone(), self.namespace)
    }

    pub(super) fn selector(&self) -> ListParams {
        ListParams::default().labels(&format!("{OPERATION_LABEL}={}", self.key))
    }

    /// Asks for one piece of work and returns the answer. `heard` is told every other line.
    ///
    /// Boxed: a conversation is long and has many states, and every future around it would carry them.
    pub fn ask<'a>(
        &'a self,
        request: Request,
        heard: &'a mut (dyn FnMut(Saying) + Send),
    ) -> BoxFuture<'a, Result<Value, Failure>> {
        Box::pin(self.converse(request, heard))
    }

    async fn converse(
        &self,
        request: Request,
        heard: &mut (dyn FnMut(Saying) + Send),
    ) -> Result<Value, Failure> {
        let mut request = request;
        let mut waiting_since = Instant::now();
        let mut last_loss: Option<Failure> = None;
        let mut asked_of: Option<String> = None;
        let mut first_ones = 0;
        let mut warnings = Warnings::default();
        loop {
            let Newest { attempt, pod, others, ended, unborn } = self.newest().await?;
            if self.handles.cancel.is_cancelled() && is_interruptible(&request) {
                self.dismiss().await?;
                return Err(Failure::new(Reason::Cancelled, "cancelled"));
            }
            let state = pod.as_ref().map(judge);
            match (state, pod) {
                // Two movers must never be at work at once.
                (Some(PodState::Running), Some(_)) if others => {
                    let limit = self.cluster.settings.start_timeout;
                    if waiting_since.elapsed() > limit {
                        return Err(Failure::new(
                            Reason::MoverLost,
                            format!("an earlier mover has not ended for {} s", limit.as_secs()),
                        )
                        .hint(
                            "its node may be lost: delete the pod by force once it is sure that it \
                             does not run any more",
                        ));
                    }
                    let cause = (Reason::MoverLost, "waits for an earlier mover to end");
                    self.handles.progress.waits(Some(cause));
                    tokio::time::sleep(Duration::from_millis(300)).await;
                }
                (Some(PodState::Running), Some(pod)) => {
                    // A mover that could not start for a while has let others work meanwhile.
                    let moment = Duration::from_millis(500);
                    let back = tokio::time::timeout(moment, self.handles.turn.take_back()).await;
                    if back.is_err() {
                        let cause = (Reason::Pending, "waits for its turn to come back");
                        self.handles.progress.waits(Some(cause));
                        continue;
                    }
                    waiting_since = Instant::now();
                    self.handles.progress.waits(None);
                    // The Job controller of older servers makes another pod of the same Job.
                    request.again |= asked_of.is_some() && asked_of != pod.metadata.uid;
                    asked_of.clone_from(&pod.metadata.uid);
                    if !self.request(&pod, &request).await? {
                        continue;
                    }
                    match self.listen(&pod, &request.id, heard).await {
                        Heard::Answer(answer) => return answer,
                        Heard::Cancelled => {}
                        Heard::Silence => tokio::time::sleep(Duration::from_millis(300)).await,
                    }
                }
                (Some(PodState::Ended(words)), Some(pod)) => {
                    if let Some(answer) = self.last_words(&pod, &words, &request.id, heard).await {
                        return answer;
                    }
                    // It was idle and has gone home; or it never saw the request.
                    self.replace(attempt, &mut request, last_loss.as_ref()).await?;
                    waiting_since = Instant::now();
                }
                (Some(PodState::Lost(loss, words)), Some(pod)) => {
                    if let Some(answer) = self.last_words(&pod, &words, &request.id, heard).await {
                        return answer;
                    }
                    warn!(operation = %self.operation, step = request.step(), "{}", loss.message);
                    request.again |= was_asked(&pod, &request.id);
                    last_loss = Some(loss);
                    self.replace(attempt, &mut request, last_loss.as_ref()).await?;
                    waiting_since = Instant::now();
                }
                (Some(PodState::Starting(obstacle)), pod) => {
                    let uid = pod.and_then(|pod| pod.metadata.uid);
                    let obstacle = match (obstacle, uid) {
                        (None, Some(uid)) => {
                            self.warned(&mut warnings, &uid, &waiting_since).await?
                        }
                        (obstacle, _) => obstacle,
                    };
                    self.wait_for_start(obstacle, &waiting_since, &request).await?;
                }
                // A Job whose pod is not there: not yet, or no more.
                _ if attempt > 0 => {
                    if let (Some(job), false) = (unborn, ended)
                        && let Some(obstacle) =
                            self.warned(&mut warnings, &job, &waiting_since).await?
                    {
                        self.wait_for_start(Some(obstacle), &waiting_since, &request).await?;
                        continue;
                    }
                    let settled = waiting_since.elapsed() > Duration::from_secs(20);
                    if settled || ended {
                        let loss = Failure::new(Reason::MoverLost, "the mover's pod is gone");
                        last_loss = Some(loss);
                        // Nobody knows what it was asked for.
                        request.again = true;
                        self.replace(attempt, &mut request, last_loss.as_ref()).await?;
                        waiting_since = Instant::now();
                    }
                    tokio::time::sleep(Duration::from_millis(250)).await;
                }
                _ => {
                    // What a Job belongs to may be gone, and then it goes too, as often as it is made.
                    if first_ones >= self.cluster.settings.attempts {
                        return Err(Failure::new(
                            Reason::MoverLost,
                            format!("{first_ones} movers were removed as soon as they were made"),
                        )
                        .hint("is the object that they belong to still there?"));
                    }
                    first_ones += 1;
                    // One that had been asked was taken away with its Job.
                    request.again |= asked_of.is_some();
                    self.create(1, &request).await?;
                    waiting_since = Instant::now();
                }
            }
        }
    }

    /// The newest mover of the operation.
    async fn newest(&self) -> Result<Newest, Failure> {
        let what = format!("list the movers of {}", self.operation);
        let (jobs, parameters) = (self.jobs(), self.selector());
        let list = self
            .cluster
            .patiently(&what, None, || jobs.list(&parameters))
            .await
            .map_err(|error| failure(&what, &error))?;
        let number = |job: &Job| job.name_any().rsplit('-').next().and_then(|n| n.parse().ok());
        let alive = list.items.iter().filter(|job| job.metadata.deletion_timestamp.is_none());
        let newest = alive.filter_map(|job| Some((number(job)?, job))).max_by_key(|(n, _)| *n);
        let Some((attempt, job)) = newest else { return Ok(Newest::default()) };
        let pods = self.pods();
        let list = self
            .cluster
            .patiently(&what, None, || pods.list(&parameters))
            .await
            .map_err(|error| failure(&what, &error))?;
        // By UID: a Job that was deleted and made again has the name of the first.
        let of_job = |pod: &Pod| {
            let mut owners = pod.owner_references().iter();
            owners.any(|owner| Some(&owner.uid) == job.metadata.uid.as_ref())
        };
        let (mut own, other): (Vec<Pod>, Vec<Pod>) = list.items.into_iter().partition(of_job);
        // A pod that a Job controller has replaced may still be there.
        own.sort_by_key(|pod| pod.metadata.creation_timestamp.clone().map(|time| time.0));
        let pod = own.pop();
        let others = own.iter().chain(&other).any(is_at_work);
        let unborn = job.metadata.uid.clone().filter(|_| has_had_no_pod(job));
        Ok(Newest { attempt, pod, others, ended: job_has_ended(job), unborn })
    }

    /// Another mover in the place of one that is gone.
    async fn replace(
        &self,
        attempt: u32,
        request: &mut Request,
        loss: Option<&Failure>,
    ) -> Result<(), Failure> {
        if attempt >= self.cluster.settings.attempts {
            let mut failure = loss.cloned().unwrap_or_else(|| {
                Failure::new(Reason::MoverLost, "the mover ended without an answer")
            });
            failure.message = format!("{} ({attempt} movers were tried)", failure.message);
            return Err(failure);
        }
        // Two movers must never be at work at once: the old one is made sure of first.
        self.end(attempt).await?;
        self.create(attempt + 1, request).await
    }

    async fn create(&self, attempt: u32, request: &Request) -> Result<(), Failure> {
        let name = names::mover(self.operation, &self.key, attempt);
        let root = self.allows_root().await?;
        let beside =
            claims::neighbour(self.cluster, self.namespace, &self.claims, &self.store_claim)
                .await?;
        let mut request = request.clone();
        request.again |= was_begun(request.step(), &self.mission.journal);
        let requests = [request];
        let plan = MoverPlan {
            name: name.clone(),
            namespace: self.namespace.to_owned(),
            labels: names::labels(self.operation, &self.key),
            owner: self.owner().await?,
            mission: &self.mission,
            requests: &requests,
            claims: &self.claims,
            writes: self.writes,
            store_claim: self.store_claim.clone(),
            identity: if root { Identity::Root } else { Identity::Workload(self.identity) },
            beside: beside.as_ref(),
            tolerations: &self.tolerations,
        };
        let job = mover_job::build(&plan, &self.cluster.settings).map_err(|error| {
            Failure::new(Reason::InternalError, format!("the mover's Job is malformed: {error}"))
        })?;
        let what = format!("make mover {}/{name}", self.namespace);
        let jobs = self.jobs();
        let parameters =
            PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        match self.cluster.patiently(&what, None, || jobs.create(&parameters, &job)).await {
            Ok(_) => info!(operation = %self.operation, mover = name, "made"),
            Err(kube::Error::Api(status)) if status.is_already_exists() => {}
            Err(error) => return Err(failure(&what, &error)),
        }
        Ok(())
    }

    /// What a mover belongs to and goes with. An object that is gone owns nothing: the garbage collector would
    /// take every mover of it away, and what was begun for it is still to be undone.
    async fn owner(&self) -> Result<Option<&OperationId>, Failure> {
        let OperationId { kind, name, uid, .. } = self.operation;
        let Some((group, version)) = API_VERSION.split_once('/') else { return Ok(None) };
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.cluster.client.clone(), self.namespace, &resource);
        let what = format!("read {kind} {}/{name}", self.namespace);
        let found = self
            .cluster
            .patiently(&what, None, || api.get_metadata_opt(name))
            .await
            .map_err(|error| failure(&what, &error))?;
        let is_there = found.is_some_and(|found| found.metadata.uid == *uid);
        Ok(is_there.then_some(self.operation))
    }

    async fn allows_root(&self) -> Result<bool, Failure> {
        let value =
            self.cluster.namespace_annotation(self.namespace, ROOT_MOVERS_ANNOTATION).await?;
        Ok(value.as_deref() == Some("true"))
    }

    /// Makes sure that the request stands on the pod. False if the pod is no more.
    async fn request(&self, pod: &Pod, request: &Request) -> Result<bool, Failure> {
        if was_asked(pod, &request.id) {
            return Ok(true);
        }
        let mut requests = asked(pod);
        requests.push(with_what_it_missed(pod, request, &self.mission.journal));
        let text = serde_json::to_string(&requests).unwrap_or_default();
        let patch = Patch::Merge(json!({"metadata": {"annotations": {STEPS_ANNOTATION: text}}}));
        let parameters =
            PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let name = pod.name_any();
        let what = format!("ask mover {}/{name}", self.namespace);
        let pods = self.pods();
        match self.cluster.patiently(&what, None, || pods.patch(&name, &parameters, &patch)).await {
            Ok(_) => Ok(true),
            Err(error) if is_missing(&error) => Ok(false),
            Err(error) => Err(failure(&what, &error)),
        }
    }

    /// Follows the log until the answer comes.
    async fn listen(&self, pod: &Pod, id: &str, heard: &mut (dyn FnMut(Saying) + Send)) -> Heard {
        let name = pod.name_any();
        let parameters = LogParams { follow: true, ..of_mover() };
        let stream = match self.pods().log_stream(&name, &parameters).await {
            Ok(stream) => stream,
            Err(error) => {
                warn!(mover = name, "its log cannot be read yet: {error}");
                return Heard::Silence;
            }
        };
        let mut lines = std::pin::pin!(lines(stream));
        let mut last = Instant::now();
        loop {
            let line = tokio::select! {
                line = lines.next() => line,
                () = tokio::time::sleep(Duration::from_millis(500)) => {
                    if self.handles.cancel.is_cancelled() {
                        return Heard::Cancelled;
                    }
                    // The stream may be dead, and the answer long said.
                    if last.elapsed() > LISTEN_ANEW {
                        return Heard::Silence;
                    }
                    continue;
                }
            };
            last = Instant::now();
            let Some(Ok(line)) = line else { return Heard::Silence };
            let Some(said) = Saying::from_line(&line) else { continue };
            if let Some(answer) = said.answers(id) {
                return Heard::Answer(answer);
            }
            self.note(said, heard);
        }
    }

    fn note(&self, said: Saying, heard: &mut (dyn FnMut(Saying) + Send)) {
        if let Saying::Progress { entries, bytes, total } = &said {
            self.handles.progress.phase("mover");
            self.handles.progress.total(0, *total);
            self.handles.progress.advance(*entries, *bytes);
        }
        heard(said);
    }

    /// What a mover that has ended has left of an answer: in its termination message, or in its log.
    async fn last_words(
        &self,
        pod: &Pod,
        words: &str,
        id: &str,
        heard: &mut (dyn FnMut(Saying) + Send),
    ) -> Option<Result<Value, Failure>> {
        let log = self.pods().logs(&pod.name_any(), &of_mover()).await;
        let log = log.unwrap_or_default();
        let mut answer = None;
        for said in log.lines().filter_map(Saying::from_line) {
            match said.answers(id) {
                Some(found) => answer = Some(found),
                None => self.note(said, heard),
            }
        }
        answer.or_else(|| {
            words.lines().filter_map(Saying::from_line).find_map(|said| said.answers(id))
        })
    }
}

fn lines(stream: impl AsyncBufRead) -> impl futures_util::Stream<Item = std::io::Result<String>> {
    BufReader::new(Box::pin(stream)).lines()
}
