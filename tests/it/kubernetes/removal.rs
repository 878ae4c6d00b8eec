//! Each permission of the generated list is taken away, one at a time, and what the operator was seen
//! to ask with it is asked once more: the API server itself has to refuse it. May not call the library.

use std::time::Duration;

use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::cluster::{Cluster, PATIENCE};
use super::permissions::{Access, access, given};
use super::proxy::Exchange;

/// The API server, as the user of a kubeconfig.
struct Server<'a> {
    runtime: &'a Runtime,
    client: kube::Client,
}

impl<'a> Server<'a> {
    fn of(cluster: &Cluster, runtime: &'a Runtime) -> Self {
        let kubeconfig = Kubeconfig::read_from(cluster.kubeconfig()).unwrap();
        let client = runtime.block_on(async {
            let options = KubeConfigOptions::default();
            let configuration =
                kube::Config::from_custom_kubeconfig(kubeconfig, &options).await.unwrap();
            kube::Client::try_from(configuration).unwrap()
        });
        Self { runtime, client }
    }

    /// The status code of the answer.
    fn ask(&self, method: &str, uri: &str, content: &Value) -> u16 {
        let kind = match method {
            "PATCH" => "application/merge-patch+json",
            _ => "application/json",
        };
        let request = http::Request::builder()
            .method(method)
            .uri(uri)
            .header("content-type", kind)
            .body(Body::from(content.to_string().into_bytes()))
            .unwrap();
        self.runtime.block_on(self.client.send(request)).unwrap().status().as_u16()
    }

    fn again(&self, request: &Exchange) -> u16 {
        let mut uri = request.uri.clone();
        if request.method != "GET" {
            uri.push(if uri.contains('?') { '&' } else { '?' });
            uri.push_str("dryRun=All");
        }
        self.ask(&request.method, &uri, &request.content)
    }
}

/// The rules of a Role without one access.
fn without(rules: &[Value], (group, resource, verb): &Access) -> Vec<Value> {
    let holds = |list: &Value, word: &str| list.as_array().unwrap().iter().any(|one| one == word);
    let less = |list: &Value, word: &str| {
        let left = list.as_array().unwrap().iter().filter(|one| *one != word);
        left.cloned().collect::<Vec<_>>()
    };
    let mut left = Vec::new();
    for rule in rules {
        if !holds(&rule["apiGroups"], group) || !holds(&rule["resources"], resource) {
            left.push(rule.clone());
            continue;
        }
        let parts = [
            (json!(less(&rule["resources"], resource)), rule["verbs"].clone()),
            (json!([resource]), json!(less(&rule["verbs"], verb))),
        ];
        for (resources, verbs) in parts {
            if resources != json!([]) && verbs != json!([]) {
                let mut part = rule.clone();
                part["resources"] = resources;
                part["verbs"] = verbs;
                left.push(part);
            }
        }
    }
    left
}

/// Takes every access away that was used, one after the other; returns how many it was.
pub fn each(admin: &Cluster, account: &Cluster, roles: &[Value], requests: &[Exchange]) -> usize {
    let runtime = Runtime::new().unwrap();
    let (admin, account) = (Server::of(admin, &runtime), Server::of(account, &runtime));
    let mut removed = 0;
    let all = roles.iter().map(given).reduce(|all, more| &all | &more).unwrap();
    for one in all {
        let is_such = |request: &&Exchange| access(request).as_ref() == Some(&one);
        // Excused, and checked to be so, by the caller.
        let Some(request) = requests.iter().rev().find(is_such) else { continue };
        for role in roles {
            let rules = role["rules"].as_array().unwrap();
            put(&admin, role, &without(rules, &one));
        }
        answers(&account, request, true, &one);
        for role in roles {
            put(&admin, role, role["rules"].as_array().unwrap());
        }
        answers(&account, request, false, &one);
        removed += 1;
    }
    removed
}

fn put(admin: &Server, role: &Value, rules: &[Value]) {
    let name = role["metadata"]["name"].as_str().unwrap();
    let namespace = role["metadata"]["namespace"].as_str().unwrap();
    let uri = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/roles/{name}");
    let content = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": {"name": name, "labels": role["metadata"]["labels"]},
        "rules": rules,
    });
    assert_eq!(admin.ask("PUT", &uri, &content), 200, "{name}");
}

/// Waits until the request is refused, or is not: the server learns of a role by a watch.
fn answers(account: &Server, request: &Exchange, refused: bool, access: &Access) {
    let until = std::time::Instant::now() + PATIENCE;
    loop {
        let status = account.again(request);
        if (status == 403) == refused {
            return;
        }
        let rule = if refused { "without" } else { "with" };
        assert!(
            std::time::Instant::now() < until,
            "{rule} {access:?}: {} {} is answered {status}",
            request.method,
            request.uri
        );
        std::thread::sleep(Duration::from_millis(100));
    }
}
