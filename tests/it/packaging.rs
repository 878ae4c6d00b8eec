//! What is handed to platform teams: RBAC, kustomize, Helm and Argo CD's health checks. Judged by
//! kubectl, Lua and Helm where they are installed; the files themselves are read everywhere.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use predicates::Predicate;

use eider::operator::permissions::{PERMISSIONS, Permission, Scope, own_beyond_watched};
use serde_json::Value;

use super::scene::tool;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn text(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn documents(yaml: &str) -> Vec<Value> {
    let all: Vec<Value> = serde_saphyr::from_multiple(yaml).unwrap();
    all.into_iter().filter(|document| !document.is_null()).collect()
}

fn of_kind<'a>(documents: &'a [Value], kind: &str) -> Vec<&'a Value> {
    documents.iter().filter(|document| document["kind"] == kind).collect()
}

fn strings(list: &Value) -> Vec<String> {
    let items = list.as_array().map(Vec::as_slice).unwrap_or_default();
    items.iter().map(|item| item.as_str().unwrap().to_owned()).collect()
}

/// Group, resource, verb and the name it is limited to, or nothing.
type Right = (String, String, String, String);

/// Everything that the rules of a role, or a list of rules, allow.
fn rights(rules: &Value) -> BTreeSet<Right> {
    let mut found = BTreeSet::new();
    for rule in rules.as_array().unwrap() {
        let mut names = strings(&rule["resourceNames"]);
        if names.is_empty() {
            names.push(String::new());
        }
        for group in strings(&rule["apiGroups"]) {
            for resource in strings(&rule["resources"]) {
                for verb in strings(&rule["verbs"]) {
                    for name in &names {
                        let right = [group.clone(), resource.clone(), verb.clone()];
                        assert!(!right.iter().any(|word| word.contains('*')), "{right:?}");
                        let [group, resource, verb] = right;
                        assert!(found.insert((group, resource, verb, name.clone())), "{rule}");
                    }
                }
            }
        }
    }
    found
}

/// The same out of the list in code.
fn listed<'a>(permissions: impl Iterator<Item = &'a Permission>) -> BTreeSet<Right> {
    let mut found = BTreeSet::new();
    for permission in permissions {
        let names = if permission.names.is_empty() { &[""][..] } else { permission.names };
        for resource in permission.resources {
            for verb in permission.verbs {
                for name in names {
                    let words = [permission.group, *resource, verb.as_str(), *name];
                    let [group, resource, verb, name] = words.map(str::to_owned);
                    found.insert((group, resource, verb, name));
                }
            }
        }
    }
    found
}

fn in_scope(scope: Scope) -> BTreeSet<Right> {
    listed(PERMISSIONS.iter().filter(|permission| permission.scope == scope))
}

/// The operator's roles hold what the list says and are bound to its service account only.
fn check_roles(documents: &[Value], role: &str, namespace: &str) {
    let named = |name: &str| {
        let all = of_kind(documents, if name == "eider" { role } else { "Role" });
        all.into_iter().find(|document| document["metadata"]["name"] == name).unwrap()
    };
    assert_eq!(rights(&named("eider")["rules"]), in_scope(Scope::Watched));
    assert_eq!(rights(&named("eider-operator")["rules"]), listed(own_beyond_watched()));
    let mut bound = BTreeSet::new();
    for kind in ["RoleBinding", "ClusterRoleBinding"] {
        for binding in of_kind(documents, kind) {
            let subjects = binding["subjects"].as_array().unwrap();
            assert_eq!(subjects.len(), 1, "{binding}");
            assert_eq!(subjects[0]["kind"], "ServiceAccount");
            assert_eq!(subjects[0]["name"], "eider");
            assert_eq!(subjects[0]["namespace"], *namespace);
            let role = &binding["roleRef"];
            bound.insert(format!("{}/{}", role["kind"], role["name"]).replace('"', ""));
        }
    }
    let expected = [format!("{role}/eider"), "Role/eider-operator".to_owned()];
    assert_eq!(bound, expected.into());
}

/// The restricted pod security standard, and what the operator needs to run under it.
fn check_pod(deployment: &Value) {
    let pod = &deployment["spec"]["template"]["spec"];
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert_eq!(pod["securityContext"]["runAsUser"], 65532);
    assert_eq!(pod["securityContext"]["fsGroup"], 65532);
    assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
    let container = &pod["containers"][0];
    let security = &container["securityContext"];
    assert_eq!(security["allowPrivilegeEscalation"], false);
    assert_eq!(security["readOnlyRootFilesystem"], true);
    assert_eq!(security["capabilities"]["drop"][0], "ALL");
    assert_eq!(container["args"][0], "operator");
    assert_eq!(container["livenessProbe"]["httpGet"]["path"], "/livez");
    assert_eq!(container["readinessProbe"]["httpGet"]["path"], "/readyz");
    assert_eq!(container["resources"]["limits"]["memory"], "256Mi");
    let variable = |name: &str| {
        let all = container["env"].as_array().unwrap();
        all.iter().find(|variable| variable["name"] == name).unwrap().clone()
    };
    assert_eq!(variable("EIDER_CATALOG")["value"], "/var/lib/eider/eider.duckdb");
    assert_eq!(variable("EIDER_LISTEN")["value"], "0.0.0.0:9110");
    for (name, field) in [("POD_NAME", "metadata.name"), ("POD_NAMESPACE", "metadata.namespace")] {
        assert_eq!(variable(name)["valueFrom"]["fieldRef"]["fieldPath"], field);
    }
    let mut mounted = BTreeSet::new();
    for mount in container["volumeMounts"].as_array().unwrap() {
        mounted.insert(mount["mountPath"].as_str().unwrap());
        let volumes = pod["volumes"].as_array().unwrap();
        assert!(volumes.iter().any(|volume| volume["name"] == mount["name"]), "{mount}");
    }
    assert_eq!(mounted, ["/run/eider", "/tmp", "/var/lib/eider"].into());
}

/// Service and NetworkPolicy select the operator's pod, and none of the movers.
fn check_selectors(documents: &[Value]) {
    let deployment = of_kind(documents, "Deployment")[0];
    let labels = deployment["spec"]["template"]["metadata"]["labels"].as_object().unwrap();
    assert_eq!(&deployment["spec"]["selector"]["matchLabels"], &Value::from(labels.clone()));
    assert_eq!(labels["app.kubernetes.io/component"], "operator");
    let service = of_kind(documents, "Service")[0];
    assert_eq!(service["spec"]["selector"], Value::from(labels.clone()));
    assert_eq!(service["spec"]["ports"][0]["port"], 9110);
    let policy = of_kind(documents, "NetworkPolicy")[0];
    assert_eq!(policy["spec"]["podSelector"]["matchLabels"], Value::from(labels.clone()));
    for budget in of_kind(documents, "PodDisruptionBudget") {
        assert_eq!(budget["spec"]["selector"]["matchLabels"], Value::from(labels.clone()));
    }
}

/// A directory as `kubectl kustomize` renders it; nothing where kubectl is missing or older than 1.21,
/// whose kustomize takes no directories as resources.
#[expect(clippy::print_stderr, reason = "a skip is seen")]
fn kustomize(directory: &str) -> Option<Vec<Value>> {
    let version = Command::new("kubectl").args(["version", "--client", "-o", "json"]).output();
    let minor = version.ok().and_then(|output| {
        let version: Value = serde_json::from_slice(&output.stdout).ok()?;
        let minor = version["clientVersion"]["minor"].as_str()?.trim_end_matches('+');
        minor.parse::<u32>().ok()
    });
    if minor.is_none_or(|minor| minor < 21) {
        eprintln!(
            "SKIPPED the check of {directory} by kubectl 1.21 or newer, which is not installed"
        );
        return None;
    }
    let path = root().join("deploy/kustomize").join(directory);
    Some(documents(&tool("kubectl", &["kustomize", path.to_str().unwrap()])))
}

#[test]
fn the_generated_roles_hold_exactly_what_the_list_says() {
    check_roles(
        &documents(&text("deploy/kustomize/base/rbac.yaml")),
        "ClusterRole",
        "eider-system",
    );
    let chart = text("deploy/helm/eider/templates/_rbac.tpl");
    let rules = |name: &str| {
        let begin = format!("{{{{- define \"eider.rules.{name}\" -}}}}\n");
        let (_, rest) = chart.split_once(&begin).unwrap();
        rights(&documents(rest.split_once("{{- end }}").unwrap().0)[0])
    };
    assert_eq!(rules("watched"), in_scope(Scope::Watched));
    assert_eq!(rules("own"), listed(own_beyond_watched()));
    assert_eq!(rules("ownApart"), in_scope(Scope::Own));
}

#[test]
fn the_check_names_a_role_that_was_edited_by_hand() {
    let directory = tempfile::tempdir().unwrap();
    let run = |check: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_eider"))
            .args(["generate", "rbac", "--directory"])
            .arg(directory.path())
            .args(check)
            .output()
            .unwrap()
    };
    assert!(run(&[]).status.success());
    assert!(run(&["--check"]).status.success());
    let file = directory.path().join("kustomize/base/rbac.yaml");
    let wider = std::fs::read_to_string(&file).unwrap().replace("[get]", "[get, delete]");
    std::fs::write(&file, &wider).unwrap();
    let output = run(&["--check"]);
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        errors.contains("kustomize/base/rbac.yaml") && !errors.contains("_rbac.tpl"),
        "{errors}"
    );
    assert_eq!(std::fs::read_to_string(&file).unwrap(), wider, "a check writes nothing");
}

#[test]
fn the_base_installs_an_operator_for_the_whole_cluster() {
    let Some(base) = kustomize("base") else { return };
    check_roles(&base, "ClusterRole", "eider-system");
    check_pod(of_kind(&base, "Deployment")[0]);
    check_selectors(&base);
    let deployment = &of_kind(&base, "Deployment")[0]["spec"];
    assert_eq!(
        (&deployment["replicas"], &deployment["strategy"]["type"]),
        (&1.into(), &"Recreate".into())
    );
    assert_eq!(of_kind(&base, "PersistentVolumeClaim").len(), 1);
    assert_eq!(of_kind(&base, "Namespace")[0]["metadata"]["name"], "eider-system");
    let definitions = of_kind(&base, "CustomResourceDefinition");
    assert_eq!(definitions.len(), 5);
    for definition in definitions {
        // Client-side apply keeps the whole object in an annotation, all of which may have 256 KiB.
        assert!(definition.to_string().len() < 200_000, "{}", definition["metadata"]["name"]);
    }
    for role in of_kind(&base, "ClusterRole") {
        rights(&role["rules"]);
    }
    assert_eq!(kustomize(".").unwrap(), base, "deploy/kustomize is its base");
}

#[test]
fn the_overlay_for_one_namespace_needs_nothing_of_the_cluster() {
    let Some(overlay) = kustomize("overlays/one-namespace") else { return };
    for document in &overlay {
        assert_eq!(document["metadata"]["namespace"], "default", "{document}");
    }
    for kind in ["ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition", "Namespace"] {
        assert!(of_kind(&overlay, kind).is_empty(), "{kind}");
    }
    check_roles(&overlay, "Role", "default");
    check_pod(of_kind(&overlay, "Deployment")[0]);
    check_selectors(&overlay);
    let container =
        &of_kind(&overlay, "Deployment")[0]["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(strings(&container["args"]), ["operator", "--namespace=$(POD_NAMESPACE)"]);
}

#[test]
fn two_replicas_share_no_claim_and_one_of_them_is_kept() {
    let Some(overlay) = kustomize("overlays/two-replicas") else { return };
    check_pod(of_kind(&overlay, "Deployment")[0]);
    check_selectors(&overlay);
    let deployment = &of_kind(&overlay, "Deployment")[0]["spec"];
    assert_eq!(
        (&deployment["replicas"], &deployment["strategy"]["type"]),
        (&2.into(), &"RollingUpdate".into())
    );
    assert!(of_kind(&overlay, "PersistentVolumeClaim").is_empty());
    assert!(!deployment.to_string().contains("persistentVolumeClaim"), "{deployment}");
    assert_eq!(of_kind(&overlay, "PodDisruptionBudget")[0]["spec"]["minAvailable"], 1);
}

#[test]
fn the_service_monitor_selects_the_service() {
    let monitor = &documents(&text("deploy/monitoring/servicemonitor.yaml"))[0];
    let service = &documents(&text("deploy/kustomize/operator/service.yaml"))[0];
    for (label, value) in monitor["spec"]["selector"]["matchLabels"].as_object().unwrap() {
        assert_eq!(&service["metadata"]["labels"][label], value, "{label}");
    }
    assert_eq!(monitor["spec"]["endpoints"][0]["port"], service["spec"]["ports"][0]["name"]);
    let label = monitor["spec"]["jobLabel"].as_str().unwrap();
    assert_eq!(service["metadata"]["labels"][label], "eider", "the job of EiderOperatorDown");
}

#[test]
fn the_charts_carry_what_the_repository_has() {
    assert_eq!(
        text("deploy/helm/eider/files/rules.yaml"),
        text("deploy/monitoring/rules.yaml"),
        "run `make generate`"
    );
    for chart in ["eider", "eider-crds"] {
        let chart = &documents(&text(format!("deploy/helm/{chart}/Chart.yaml")))[0];
        assert_eq!(chart["version"], env!("CARGO_PKG_VERSION"));
        assert_eq!(chart["appVersion"], env!("CARGO_PKG_VERSION"));
    }
    let listed = documents(&text("crds/kustomization.yaml"));
    let listed: BTreeSet<String> = strings(&listed[0]["resources"]).into_iter().collect();
    let mut present = BTreeSet::new();
    for entry in std::fs::read_dir(root().join("crds")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name == "kustomization.yaml" {
            continue;
        }
        let definition = &documents(&text(format!("crds/{name}")))[0];
        let mut chart =
            documents(&text(format!("deploy/helm/eider-crds/templates/{name}"))).remove(0);
        let metadata = chart["metadata"].as_object_mut().unwrap();
        let annotations = metadata.remove("annotations").unwrap();
        assert_eq!(annotations["helm.sh/resource-policy"], "keep");
        assert_eq!(&chart, definition, "{name}: run `make generate`");
        present.insert(name);
    }
    assert_eq!(listed, present);
}

#[test]
fn helm_accepts_the_charts() {
    if Command::new("helm").arg("version").output().is_err() {
        eprintln!("SKIPPED the charts' rendering by helm, which is not installed");
        return;
    }
    let chart = root().join("deploy/helm/eider");
    let chart = chart.to_str().unwrap();
    tool("helm", &["lint", "--strict", chart, &chart.replace("/eider", "/eider-crds")]);
    let render = |set: &str| {
        let options = ["--namespace", "eider-system", "--set", set];
        documents(&tool("helm", &[&["template", "eider", chart][..], &options[..]].concat()))
    };
    let all =
        render("monitoring.serviceMonitor.enabled=true,monitoring.prometheusRule.enabled=true");
    check_roles(&all, "ClusterRole", "eider-system");
    check_pod(of_kind(&all, "Deployment")[0]);
    check_selectors(&all);
    let rules = &documents(&text("deploy/monitoring/rules.yaml"))[0];
    assert_eq!(of_kind(&all, "PrometheusRule")[0]["spec"], *rules);
    let two = render("replicas=2,watchNamespaces={shop}");
    assert!(of_kind(&two, "PersistentVolumeClaim").is_empty());
    assert!(!of_kind(&two, "ClusterRoleBinding").iter().any(|_| true));
    assert_eq!(of_kind(&two, "PodDisruptionBudget").len(), 1);
}

/// A value as Lua writes it; empty lists and maps are the same to it.
fn lua(value: &Value) -> String {
    let list = |items: Vec<String>| format!("{{{}}}", items.join(", "));
    match value {
        Value::Null => "nil".to_owned(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::String(text) => format!("[==[{text}]==]"),
        Value::Array(items) => list(items.iter().map(lua).collect()),
        Value::Object(fields) => list(
            fields
                .iter()
                .map(|(name, value)| format!("[ [==[{name}]==] ] = {}", lua(value)))
                .collect(),
        ),
    }
}

#[test]
fn argo_cd_is_told_the_truth_about_every_sample() {
    let program = ["lua5.1", "lua5.4", "lua", "luajit"]
        .into_iter()
        .find(|name| Command::new(name).arg("-v").output().is_ok());
    let Some(program) = program else {
        eprintln!("SKIPPED Argo CD's health checks, for Lua (lua5.1) is not installed");
        return;
    };
    let mut seen = 0;
    for kind in eider::spec::Kind::ALL {
        let directory = PathBuf::from(format!("deploy/argocd/eider.dev/{kind}"));
        let tests = documents(&text(directory.join("health_test.yaml"))).remove(0);
        let mut tested = BTreeSet::new();
        for test in tests["tests"].as_array().unwrap() {
            let path = test["inputPath"].as_str().unwrap();
            let sample = documents(&text(directory.join(path))).remove(0);
            assert_eq!(sample["kind"], kind.as_str(), "{path}");
            // As in Argo CD's machine, there is no library for the system in reach.
            let script = format!(
                "obj = {}\nlocal check = assert(loadfile([==[{}]==]))\n\
                 local print = print\nos, io, require, dofile = nil, nil, nil, nil\n\
                 local health = check()\nprint(health.status)\nprint(health.message)\n",
                lua(&sample),
                root().join(&directory).join("health.lua").display(),
            );
            let said = tool(program, &["-e", &script]);
            let expected = &test["healthStatus"];
            let expected =
                [&expected["status"], &expected["message"]].map(|one| one.as_str().unwrap());
            assert_eq!(said.lines().collect::<Vec<_>>(), expected, "{kind}: {path}");
            tested.insert(path.trim_start_matches("testdata/").to_owned());
            seen += 1;
        }
        let samples = std::fs::read_dir(root().join(directory).join("testdata")).unwrap();
        let samples = samples.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        assert_eq!(tested, samples.collect(), "{kind}: every sample is tested");
    }
    assert!(seen > 20, "{seen} samples");
}

#[test]
fn the_configuration_of_argo_cd_holds_the_tested_scripts() {
    let configuration = documents(&text("deploy/argocd/argocd-cm.yaml")).remove(0);
    let scripts = configuration["data"].as_object().unwrap();
    assert_eq!(scripts.len(), eider::spec::Kind::ALL.len());
    for kind in eider::spec::Kind::ALL {
        let script = &scripts[&format!("resource.customizations.health.eider.dev_{kind}")];
        let file = text(format!("deploy/argocd/eider.dev/{kind}/health.lua"));
        assert_eq!(script.as_str().unwrap(), file, "{kind}");
    }
}

#[test]
fn the_compose_files_run_what_there_is() {
    let compose = documents(&text("deploy/docker/compose.yaml")).remove(0);
    let eider = &compose["services"]["eider"];
    let command = strings(&eider["command"]);
    // The daemon takes these arguments: it fails only because the directory is not here.
    let output = Command::new(env!("CARGO_BIN_EXE_eider")).args(&command).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("/etc/eider is not a directory"), "{said}");
    assert_eq!(strings(&eider["healthcheck"]["test"]), ["CMD", "/usr/local/bin/eider", "health"]);
    let mounted = strings(&eider["volumes"]);
    for place in ["/var/run/docker.sock", "/etc/eider:ro", "/var/lib/eider", "/srv/backups"] {
        assert!(mounted.iter().any(|mount| mount.ends_with(place)), "{place}: {mounted:?}");
    }
    // Eider has no socket where it has a proxy.
    let proxied = text("deploy/docker/compose.socket-proxy.yaml").replace("!override", "");
    let proxied = documents(&proxied).remove(0);
    let mounts = strings(&proxied["services"]["eider"]["volumes"]);
    assert!(!mounts.iter().any(|mount| mount.contains("docker.sock")), "{mounts:?}");
}

#[test]
fn the_proxy_lets_the_calls_of_the_table_through_and_no_others() {
    let rules = text("deploy/docker/haproxy.cfg");
    let of_method = |name: &str| match name {
        "asked" => "GET",
        "done" => "POST",
        "removed" => "DELETE",
        other => panic!("no rule is called {other}"),
    };
    let rules: Vec<(&str, &str)> = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("acl "))
        .filter_map(|rule| rule.split_once(" path_reg "))
        .map(|(name, expression)| (of_method(name), expression))
        .collect();
    assert!(rules.len() > 5, "{rules:?}");
    let table = text("deploy/docker/README.md");
    let calls: Vec<(&str, String)> = table
        .lines()
        .filter(|line| line.starts_with("| `") && line.contains(" /"))
        .map(|line| line.split('`').nth(1).unwrap().split_once(' ').unwrap())
        .map(|(method, path)| (method, path.replace("{id}", "abc123")))
        .collect();
    let lets = |rule: &(&str, &str), call: &(&str, String)| {
        let path = predicates::str::is_match(rule.1).unwrap();
        rule.0 == call.0 && path.eval(&call.1) && path.eval(&format!("/v1.41{}", call.1))
    };
    for call in &calls {
        assert!(rules.iter().any(|rule| lets(rule, call)), "not let through: {call:?}");
    }
    for rule in &rules {
        assert!(calls.iter().any(|call| lets(rule, call)), "let through without need: {rule:?}");
    }
    for (method, path) in [("POST", "/build"), ("GET", "/secrets"), ("DELETE", "/volumes/x")] {
        let call = (method, path.to_owned());
        assert!(!rules.iter().any(|rule| lets(rule, &call)), "let through: {call:?}");
    }
}

#[test]
fn systemd_accepts_the_unit() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        eprintln!("SKIPPED the unit file's check by systemd-analyze, which is not installed");
        return;
    }
    let unit = text("deploy/systemd/eider.service");
    assert!(unit.contains("ExecStart=/usr/local/bin/eider "));
    let unit = unit.replace("/usr/local/bin/eider", env!("CARGO_BIN_EXE_eider"));
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("eider.service");
    std::fs::write(&file, unit).unwrap();
    let output = Command::new("systemd-analyze").arg("verify").arg(&file).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!said.contains("eider.service:"), "{said}");
}
