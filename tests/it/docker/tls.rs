//! An engine that is reached by TLS, as `docker` reaches it; and addresses that lead nowhere.

use super::engine::{IMAGE, Project, SERVICE, backup, lines};
use super::second::SecondEngine;
use crate::scene::{Ended, STORE, Scene, shell, wait_until};

/// Certificates of an authority, of the engine, and of a client, in one directory each.
const CERTIFICATES: &str = "
make() { openssl req -newkey rsa:2048 -nodes -subj /CN=$1 -keyout $2-key.pem -out $2.csr 2>/dev/null; }
sign() { openssl x509 -req -in $1.csr -CA ca.pem -CAkey ca-key.pem -CAcreateserial -days 2 -out $1.pem \
  -extfile $1.ext 2>/dev/null; }
openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=authority -days 2 -keyout ca-key.pem -out ca.pem 2>/dev/null
make 127.0.0.1 server; echo 'subjectAltName=IP:127.0.0.1' > server.ext; sign server
make client client; echo 'extendedKeyUsage=clientAuth' > client.ext; sign client
mkdir client other; cp ca.pem client/ca.pem; cp client.pem client/cert.pem; cp client-key.pem client/key.pem
mkdir stranger; cp -r client/. other; cp -r client/. stranger
openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=other -days 2 -keyout stranger/key.pem -out other/ca.pem \
  2>/dev/null; cp other/ca.pem stranger/cert.pem
";

const ADDRESS: &str = "tcp://127.0.0.1:2376";

#[test]
fn an_engine_behind_tls_is_used_like_any_other_and_a_stranger_is_not() {
    let scene = Scene::new();
    let place = scene.path("tls");
    std::fs::create_dir(&place).unwrap();
    shell(&place, CERTIFICATES);
    let file = |name: &str| place.join(name).display().to_string();
    let (authority, own, key) = (file("ca.pem"), file("server.pem"), file("server-key.pem"));
    let files = ["--tlsverify", "--tlscacert", &authority, "--tlscert", &own, "--tlskey", &key];
    let Some(engine) = SecondEngine::start_with(&[&["--host", ADDRESS], &files[..]].concat())
    else {
        return;
    };
    let run = ["run", "--detach", "--network", "none", "--name", "db", "-v", "shop_data:/data"];
    engine.docker(&[&run[..], &[IMAGE, "/bin/sh", "-c", SERVICE]].concat());
    wait_until("it has started", || engine.volume("shop_data").join("log").exists());
    let backed_up = |name: &str, certificates: &str| -> Ended {
        let hook = "hooks: {before: [{exec: {container: db, command: [\"true\"]}}]}";
        let documents = format!("{STORE}---\n{}", backup(name, "containers: [db]", hook));
        scene.write("documents.yaml", scene.fill(&documents));
        let like = scene.command(&["run", "-f", "documents.yaml"]);
        let mut command = engine.beside(std::path::Path::new(like.get_program()));
        let set = like.get_envs().filter_map(|(name, value)| Some((name, value?)));
        command.current_dir(like.get_current_dir().unwrap());
        command.args(like.get_args()).envs(set).env("DOCKER_HOST", ADDRESS);
        command.env("DOCKER_TLS_VERIFY", "1").env("DOCKER_CERT_PATH", place.join(certificates));
        command.output().unwrap().into()
    };
    backed_up("night", "client").ok();
    assert_eq!(engine.state("db"), "running");
    assert_eq!(lines(&engine.volume("shop_data").join("log")), ["started", "stopped", "started"]);
    // An engine that somebody else vouches for, a client that nobody vouches for, none at all.
    backed_up("other", "other").code(5).says("certificate");
    backed_up("stranger", "stranger").code(5).says("ertificate");
    std::fs::remove_file(place.join("client/key.pem")).unwrap();
    backed_up("keyless", "client").code(5).says("key.pem");
    assert_eq!(lines(&engine.volume("shop_data").join("log")).len(), 3, "it was stopped");
}

#[test]
fn an_address_that_leads_to_another_machine_is_refused_in_words() {
    let Some(project) = Project::new() else { return };
    let target = format!("project: {}", project.name);
    let documents = format!("{STORE}---\n{}", backup("night", &target, ""));
    project.scene.write("documents.yaml", project.scene.fill(&documents));
    let mut command = project.scene.command(&["run", "-f", "documents.yaml"]);
    let ended: Ended = command.env("DOCKER_HOST", "ssh://root@db1").output().unwrap().into();
    assert!(ended.stderr.contains("another machine") && ended.stderr.contains("run Eider there"));
}
