//! Asking a mover and waiting for its answer, whatever happens to it meanwhile.
//!
//! Every turn looks at the cluster first: there may be no mover yet, one that starts, one that works
//! (perhaps since before this process was born), one that has answered, or the remains of one.

use std::time::{Duration, Instant};

use futures_util::io::{AsyncBufReadExt, BufReader};
use futures_util::{AsyncBufRead, StreamExt};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams, LogParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use tracing::{info, warn};

use super::asked::{asked, is_interruptible, was_asked, was_begun, with_what_it_missed};
use super::claims;
use super::cluster::{Cluster, FIELD_MANAGER, failure, is_missing};
use super::mover_job::{self, Identity, MoverPlan};
use super::names::{self, OPERATION_LABEL, ROOT_MOVERS_ANNOTATION};
use super::pod_state::{PodState, has_ended, judge};
use crate::plan::{Failure, OperationId};
use crate::runtime::mover::{Mission, Request, STEPS_ANNOTATION, Saying};
use crate::runtime::{BoxFuture, Handles};
use crate::spec::Reason;
use k8s_openapi::api::core::v1::PodTemplateSpec;

/// Who is asked, and what is needed to make it.
pub struct Conversation<'a> {
    /// The cluster.
    pub cluster: &'a Cluster,
    /// Where the mover is.
    pub namespace: &'a str,
    /// The operation, or a made-up one for work on a store.
    pub operation: &'a OperationId,
    /// What a new mover is told.
    pub mission: Mission,
    /// Claims of the target.
    pub claims: Vec<String>,
    /// Whether they are written to.
    pub writes: bool,
    /// Claim of the store.
    pub store_claim: String,
    /// What the workload's pods are made of.
    pub template: Option<PodTemplateSpec>,
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
}

fn job_has_ended(job: &Job) -> bool {
    let conditions = job.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| {
        condition.status == "True" && matches!(condition.type_.as_str(), "Failed" | "Complete")
    })
}

impl Conversation<'_> {
    fn key(&self) -> String {
        names::key(self.operation)
    }

    fn jobs(&self) -> Api<Job> {
        Api::namespaced(self.cluster.client.clone(), self.namespace)
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.cluster.client.clone(), self.namespace)
    }

    fn selector(&self) -> ListParams {
        ListParams::default().labels(&format!("{OPERATION_LABEL}={}", self.key()))
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
        loop {
            let Newest { attempt, pod, others, ended } = self.newest().await?;
            if self.handles.cancel.is_cancelled() && is_interruptible(&request) {
                self.dismiss().await?;
                return Err(Failure::new(Reason::Cancelled, "cancelled"));
            }
            let state = pod.as_ref().map(judge);
            match (state, pod) {
                // Two movers must never be at work at once.
                (Some(PodState::Running), Some(_)) if others => {
                    waiting_since = Instant::now();
                    tokio::time::sleep(Duration::from_millis(300)).await;
                }
                (Some(PodState::Running), Some(pod)) => {
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
                (Some(PodState::Starting(obstacle)), _) => {
                    if waiting_since.elapsed() > self.cluster.settings.start_timeout {
                        self.dismiss().await?;
                        return Err(obstacle.unwrap_or_else(|| {
                            let seconds = self.cluster.settings.start_timeout.as_secs();
                            Failure::new(
                                Reason::MoverLost,
                                format!("the mover did not start within {seconds} s"),
                            )
                        }));
                    }
                    let obstacle = obstacle.as_ref();
                    let waits = obstacle.map(|found| (found.reason, found.message.as_str()));
                    self.handles.progress.waits(waits);
                    tokio::time::sleep(Duration::from_millis(250)).await;
                }
                // A Job whose pod is not there: not yet, or no more.
                _ if attempt > 0 => {
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
        Ok(Newest { attempt, pod, others, ended: job_has_ended(job) })
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
        let name = names::mover(self.operation, &self.key(), attempt);
        let root = self.allows_root().await?;
        let found = claims::describe(self.cluster, self.namespace, &self.claims).await?;
        let exclusive = found.iter().flatten().any(claims::is_exclusive);
        let beside = if exclusive {
            claims::user_of(self.cluster, self.namespace, &self.claims).await?
        } else {
            None
        };
        let mut request = request.clone();
        request.again |= was_begun(request.step(), &self.mission.journal);
        let requests = [request];
        let plan = MoverPlan {
            name: name.clone(),
            namespace: self.namespace.to_owned(),
            labels: names::labels(self.operation, &self.key()),
            owner: Some(self.operation),
            mission: &self.mission,
            requests: &requests,
            claims: &self.claims,
            writes: self.writes,
            store_claim: self.store_claim.clone(),
            identity: Identity::of(root, self.template.as_ref()),
            beside: beside.as_ref(),
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
        let parameters = LogParams { follow: true, ..LogParams::default() };
        let stream = match self.pods().log_stream(&name, &parameters).await {
            Ok(stream) => stream,
            Err(error) => {
                warn!(mover = name, "its log cannot be read yet: {error}");
                return Heard::Silence;
            }
        };
        let mut lines = std::pin::pin!(lines(stream));
        loop {
            let line = tokio::select! {
                line = lines.next() => line,
                () = tokio::time::sleep(Duration::from_millis(500)) => {
                    if self.handles.cancel.is_cancelled() {
                        return Heard::Cancelled;
                    }
                    continue;
                }
            };
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
        let log = self.pods().logs(&pod.name_any(), &LogParams::default()).await;
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

    /// Deletes a mover's Job and waits until its pod is gone: until then it may still write.
    async fn end(&self, attempt: u32) -> Result<(), Failure> {
        let name = names::mover(self.operation, &self.key(), attempt);
        let what = format!("end mover {}/{name}", self.namespace);
        self.delete(&name).await?;
        let pods = self.pods();
        let selector = ListParams::default().labels(&format!("job-name={name}"));
        let begun = Instant::now();
        loop {
            let list = self
                .cluster
                .patiently(&what, None, || pods.list(&selector))
                .await
                .map_err(|error| failure(&what, &error))?;
            let at_work = list.items.iter().any(is_at_work);
            if !at_work || begun.elapsed() > Duration::from_mins(5) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }

    async fn delete(&self, name: &str) -> Result<(), Failure> {
        let what = format!("end mover {}/{name}", self.namespace);
        let (jobs, parameters) = (self.jobs(), DeleteParams::background());
        match self.cluster.patiently(&what, None, || jobs.delete(name, &parameters)).await {
            Ok(_) => Ok(()),
            Err(error) if is_missing(&error) => Ok(()),
            Err(error) => Err(failure(&what, &error)),
        }
    }

    /// Ends every mover of the operation, without waiting for it: for when nothing is left to do.
    pub async fn let_go(&self) -> Result<(), Failure> {
        for name in self.names().await? {
            self.delete(&name).await?;
        }
        Ok(())
    }

    /// Ends every mover of the operation, and waits until none is at work.
    pub async fn dismiss(&self) -> Result<(), Failure> {
        for name in self.names().await? {
            if let Some(attempt) = name.rsplit('-').next().and_then(|n| n.parse().ok()) {
                self.end(attempt).await?;
            }
        }
        Ok(())
    }

    /// The names of the operation's movers.
    async fn names(&self) -> Result<Vec<String>, Failure> {
        let what = format!("list the movers of {}", self.operation);
        let (jobs, parameters) = (self.jobs(), self.selector());
        match self.cluster.patiently(&what, None, || jobs.list(&parameters)).await {
            Ok(list) => Ok(list.items.iter().map(ResourceExt::name_any).collect()),
            Err(error) if is_missing(&error) => Ok(Vec::new()),
            Err(error) => Err(failure(&what, &error)),
        }
    }
}

/// Whether a process of the pod may still write.
fn is_at_work(pod: &Pod) -> bool {
    matches!(judge(pod), PodState::Running)
        || (pod.metadata.deletion_timestamp.is_some() && !has_ended(pod))
}

fn lines(stream: impl AsyncBufRead) -> impl futures_util::Stream<Item = std::io::Result<String>> {
    BufReader::new(Box::pin(stream)).lines()
}
