//! What documents would do, without writing anything: for `--dry-run`.

use super::resolve::directory_store;
use super::{Operator, OperatorError};
use crate::plan::{Failure, Job, OperationId, RestoreJob, StoreBinding};
use crate::spec::{Document, Kind};

impl Operator {
    /// The job of a document as it would be resolved after all of `documents` had been applied;
    /// nothing for kinds that live on.
    pub async fn preview(
        &self,
        document: &Document,
        documents: &[Document],
    ) -> Result<Option<Result<Job, Failure>>, OperatorError> {
        let key = document.key();
        if !key.kind.runs_once() {
            return Ok(None);
        }
        let operation = OperationId {
            uid: None,
            kind: key.kind.as_str().to_owned(),
            namespace: key.namespace.clone(),
            name: if key.name.is_empty() { "generated".to_owned() } else { key.name },
            generation: 1,
        };
        let overlay = documents
            .iter()
            .filter_map(|document| match document {
                Document::BackupStore(store) => Some((
                    document.namespace().to_owned(),
                    StoreBinding {
                        name: document.name().unwrap_or_default().to_owned(),
                        spec: store.spec.clone(),
                    },
                )),
                _ => None,
            })
            .collect();
        let preview = self.with_stores(overlay);
        let job = match preview.job_of(&operation, key.kind, &document.to_value()).await? {
            Err(failure) => match planned_restore(&preview, document, documents, &operation).await?
            {
                Some(job) => job,
                None => return Ok(Some(Err(failure))),
            },
            Ok(job) => job,
        };
        Ok(Some(self.runtime_for(&job).map(|_| job)))
    }

    /// What people should know of a job before it is carried out, one line each.
    ///
    /// # Errors
    /// If its target cannot be looked at.
    pub async fn explain(&self, job: &Job) -> Result<Vec<String>, Failure> {
        self.runtime_for(job)?.explain(job).await
    }

    /// Whether a document says something else than what is recorded of its object.
    pub async fn differs(&self, document: &Document) -> Result<bool, OperatorError> {
        let key = document.key();
        let known = self.catalog.resource(key.kind.as_str(), &key.namespace, &key.name).await?;
        Ok(known
            .is_none_or(|known| known.spec_digest != super::apply::digest(&document.spec_value())))
    }
}

/// A restore of a backup that one of the other documents would make first.
async fn planned_restore(
    operator: &Operator,
    document: &Document,
    documents: &[Document],
    operation: &OperationId,
) -> Result<Option<Job>, OperatorError> {
    let Document::Restore(restore) = document else {
        return Ok(None);
    };
    let Some(reference) = &restore.spec.from.backup_ref else {
        return Ok(None);
    };
    let made = documents.iter().find_map(|other| match other {
        Document::Backup(backup)
            if other.namespace() == document.namespace()
                && other.name() == Some(reference.name.as_str()) =>
        {
            Some(backup)
        }
        _ => None,
    });
    let Some(backup) = made else {
        return Ok(None);
    };
    let store = operator.store(document.namespace(), &backup.spec.store_ref.name).await?;
    let store = store.unwrap_or_else(|_| {
        directory_store(&backup.spec.store_ref.name, std::path::Path::new("/"))
    });
    Ok(Some(Job::Restore(RestoreJob {
        operation: operation.clone(),
        spec: restore.spec.clone(),
        store,
        archive: format!("(the archive of {} {})", Kind::Backup, reference.name),
        target: restore.spec.target.clone().unwrap_or_else(|| backup.spec.target.clone()),
        from_namespace: None,
        claims: Vec::new(),
        root_names: Vec::new(),
    })))
}
