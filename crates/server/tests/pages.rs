//! The pages as they leave the server; `testdata/pages` drives them in a browser.
#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, its helpers too"
)]
#![allow(dead_code, reason = "each test program uses a part of the support")]

mod support;

use std::sync::LazyLock;

use quintet_server::{Auth, Catalogue, Config};
use support::{Answer, Running};

static SERVER: LazyLock<Running> = LazyLock::new(|| start(Config::default()));

fn start(mut config: Config) -> Running {
    config.serves = Some("mini".to_owned());
    let server = Running::start(config);
    // The pages tell what is live.
    server.get("/v1/models");
    server
}

/// As a browser asks.
fn page(server: &Running, path: &str) -> Answer {
    server.get_with(
        path,
        &[("accept", "text/html,application/xhtml+xml,*/*;q=0.8")],
    )
}

#[test]
fn every_page_is_whole_and_loads_nothing_from_elsewhere() {
    let catalogue = Catalogue::built_in();
    let models = catalogue
        .entries()
        .iter()
        .map(|entry| format!("/models/{}", entry.id));
    let others = [
        "/",
        "/playground",
        "/quality",
        "/compare",
        "/compare?models=quintet/mini,BAAI/bge-m3",
    ];
    for path in others.map(str::to_owned).into_iter().chain(models) {
        let answer = page(&SERVER, &path);
        assert_eq!(answer.status, 200, "{path}");
        assert!(answer.body.trim_end().ends_with("</html>"), "{path}");
        let policy = answer.header("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self'"));
        assert!(
            !policy.contains("unsafe") && !policy.contains("http"),
            "{policy}"
        );
        // What a page loads, unlike what it links to, is ours.
        for attribute in [
            "src=\"",
            "<link rel=\"stylesheet\" href=\"",
            "<link rel=\"icon\" href=\"",
        ] {
            for part in answer.body.split(attribute).skip(1) {
                assert!(
                    part.starts_with("/assets/"),
                    "{path}: {attribute}{}",
                    &part[..40]
                );
                let asset = SERVER.get(part.split('"').next().unwrap());
                assert_eq!(asset.status, 200);
                assert!(asset.header("cache-control").unwrap().contains("immutable"));
            }
        }
        assert!(
            !answer.body.contains(" style=") && !answer.body.contains(" onclick="),
            "{path}"
        );
    }
}

#[test]
fn whoever_wants_html_gets_the_page_and_programs_get_json() {
    let html = page(&SERVER, "/models/quintet/mini");
    assert!(
        html.header("content-type")
            .unwrap()
            .starts_with("text/html")
    );
    assert!(html.header("vary").unwrap().contains("accept"));
    let json = SERVER.get("/models/mini");
    assert_eq!(json.json()["id"], "mini");
    let missing = page(&SERVER, "/models/none/such");
    assert_eq!(missing.status, 404);
    assert!(
        missing
            .header("content-type")
            .unwrap()
            .starts_with("text/html")
    );
}

#[test]
fn pages_need_no_key_and_the_api_beside_them_does() {
    let server = start(Config {
        auth: Auth::key(&"sesame".into()),
        ..Config::default()
    });
    for path in [
        "/",
        "/models/quintet/mini",
        "/compare",
        "/playground",
        "/quality",
    ] {
        assert_eq!(page(&server, path).status, 200, "{path}");
    }
    assert_eq!(server.get("/models/mini").status, 401);
    assert_eq!(server.get("/models").status, 401);
}

#[test]
fn what_is_live_and_what_is_not_is_told() {
    let list = page(&SERVER, "/").body;
    let first = list.find("data-status=").unwrap();
    assert!(list[first..].starts_with("data-status=\"live\""));
    let mini = page(&SERVER, "/models/quintet/mini").body;
    assert!(mini.contains("status live") && mini.contains("/playground\">Try it"));
    let jina = page(&SERVER, "/models/jinaai/jina-embeddings-v3").body;
    assert!(jina.contains("status cold") && !jina.contains("Try it"));
    assert!(jina.contains("No commercial use without the owner's leave"));
    // The five adapters are drawn.
    assert_eq!(jina.matches("class=\"adapter\"").count(), 5);
}

#[test]
fn words_of_a_stranger_are_never_markup() {
    let script = "<script>alert(1)</script>";
    let hostile = [
        format!("/compare?models={script}"),
        format!("/models/{script}/x"),
        format!("/?{script}"),
    ];
    for path in hostile {
        let path = path.replace('<', "%3C").replace('>', "%3E");
        let body = page(&SERVER, &path).body;
        assert!(!body.contains(script), "{path}");
    }
    let headers = [
        ("accept", "text/html"),
        ("host", "evil.example/<script>alert(1)</script>"),
        ("x-forwarded-proto", "javascript"),
    ];
    let body = SERVER.get_with("/models/quintet/mini", &headers).body;
    assert!(!body.contains("evil") && !body.contains("alert(1)"));
}
