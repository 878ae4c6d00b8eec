//! What containers have written outside of mounts: it is in no backup, and a plan says how much it is.

use std::collections::BTreeMap;
use std::time::Duration;

use bollard::Docker;
use bollard::query_parameters::InspectContainerOptionsBuilder;
use futures_util::StreamExt;

use crate::plan::docker::{ContainerFacts, Uncovered};
use crate::spec::readable_size;

/// Containers that are asked about at once.
const AT_ONCE: usize = 4;
/// How long it may take together: the engine walks through everything that a container has written.
const LOOKING: Duration = Duration::from_secs(5);

/// How many bytes each of these containers keeps in its own layer, by its name. Who keeps nothing is not in it,
/// nor those of which the engine did not say it in time.
pub async fn written(
    docker: &Docker,
    containers: impl Iterator<Item = &ContainerFacts>,
) -> BTreeMap<String, i64> {
    let mut written = BTreeMap::new();
    let asked: Vec<(String, String)> =
        containers.map(|container| (container.id.clone(), container.name.clone())).collect();
    let ask = |(id, name): (String, String)| async move {
        let options = InspectContainerOptionsBuilder::new().size(true).build();
        let found = docker.inspect_container(&id, Some(options)).await.ok()?;
        found.size_rw.filter(|bytes| *bytes > 0).map(|bytes| (name, bytes))
    };
    let mut answers =
        futures_util::stream::iter(asked.into_iter().map(ask)).buffer_unordered(AT_ONCE);
    let all = async {
        while let Some(answer) = answers.next().await {
            written.extend(answer);
        }
    };
    // What has been said until then is told.
    let _ = tokio::time::timeout(LOOKING, all).await;
    written
}

/// The line of a plan for what a backup does not hold.
pub fn line(left: &Uncovered, written: &BTreeMap<String, i64>) -> String {
    let Uncovered { container, place, why, .. } = left;
    let size = written.get(container).filter(|_| place == "/");
    let size = size.map(|bytes| format!(", {} by now", readable_size(*bytes))).unwrap_or_default();
    format!("not covered: {place} of {container}: {why}{size}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_says_how_much_would_go_with_a_container() {
        let left = |place: &str| Uncovered {
            container: "web".to_owned(),
            place: place.to_owned(),
            why: "it goes".to_owned(),
            usual: true,
        };
        let written = [("web".to_owned(), 3_i64 << 20)].into();
        assert_eq!(line(&left("/"), &written), "not covered: / of web: it goes, 3.0 MiB by now");
        assert_eq!(line(&left("/tmp"), &written), "not covered: /tmp of web: it goes");
        assert_eq!(line(&left("/"), &BTreeMap::new()), "not covered: / of web: it goes");
    }
}
