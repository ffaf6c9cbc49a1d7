//! The pages behind the door as a browser meets them: sessions, forms, keys, usage, the ledger, and what
//! only an operator sees. `testdata/pages` drives them in a real one.
#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, its helpers too"
)]
#![allow(dead_code, reason = "each test program uses a part of the support")]

mod support;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quintet_server::metering::{PicoUsd, Price};
use quintet_server::store::accounts::{self, Change};
use quintet_server::store::batches::{self, NewBatch};
use quintet_server::store::files::{self, Purpose, StoredFile};
use quintet_server::store::keys::{self, KeyOptions, NewKey, Scope};
use quintet_server::store::{Database, Location, StoreError, Time};
use quintet_server::{Auth, Config, Hosting, HostingConfig, JobLimits, Jobs, SignUp};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use support::Running;
use tempfile::TempDir;

/// A server with accounts, and its state beside it.
struct Hosted {
    server: Running,
    location: Location,
    _folder: TempDir,
}

impl Hosted {
    fn start(config: HostingConfig) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let location = Location::File(folder.path().join("state.db"));
        let hosting = Arc::new(Hosting::open(&location, config).unwrap());
        let files = folder.path().join("files");
        let jobs = Jobs::open(Arc::clone(&hosting.store), &files, JobLimits::default());
        let server = Running::start(Config {
            auth: Auth::Accounts(hosting),
            jobs: Some(Arc::new(jobs.unwrap())),
            serves: Some("mini".to_owned()),
            ..Config::default()
        });
        Self {
            server,
            location,
            _folder: folder,
        }
    }

    fn priced() -> Self {
        Self::start(HostingConfig {
            price: Some(Price {
                realtime_micro_usd_per_million: 20_000,
                batch_micro_usd_per_million: 10_000,
            }),
            ..HostingConfig::default()
        })
    }

    fn change<T>(
        &self,
        work: impl FnOnce(&mut dyn Database, Change<'_>) -> Result<T, StoreError>,
    ) -> T {
        support::change(&self.location, work)
    }

    /// An account with a dollar, and a key of these scopes.
    fn key(&self, name: &str, scopes: &[Scope]) -> (String, NewKey) {
        self.change(|database, change| {
            let account = accounts::create(database, change, name, true)?;
            let dollar = "1".parse().unwrap();
            accounts::grant(database, change, &account.id, dollar, Some("a gift"))?;
            let options = KeyOptions {
                name: "first".to_owned(),
                scopes: scopes.to_vec(),
                ..KeyOptions::default()
            };
            let key = keys::create(database, change, &account.id, "qt-", &options)?;
            Ok((account.id, key))
        })
    }

    fn browser(&self) -> Browser<'_> {
        Browser {
            server: &self.server,
            cookies: RefCell::default(),
            agent: ureq::Agent::config_builder()
                .http_status_as_error(false)
                .max_redirects(0)
                .max_idle_connections(0)
                .build()
                .into(),
        }
    }

    /// Signed in with this key.
    fn visitor(&self, key: &NewKey) -> Browser<'_> {
        let browser = self.browser();
        let answer = browser.send("/sign-in", "/sign-in", &[("key", text(key))]);
        assert_eq!(answer.status, 303, "{}", answer.body);
        browser
    }
}

fn text(key: &NewKey) -> &str {
    key.text.expose_secret()
}

/// Keeps cookies, follows nothing.
struct Browser<'a> {
    server: &'a Running,
    cookies: RefCell<BTreeMap<String, String>>,
    agent: ureq::Agent,
}

struct Page {
    status: u16,
    headers: ureq::http::HeaderMap,
    body: String,
}

impl Page {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |it| it.to_str().unwrap())
    }

    /// The token of its forms.
    fn token(&self) -> String {
        let (_, rest) = self
            .body
            .split_once("name=\"form_token\" value=\"")
            .unwrap();
        rest.split('"').next().unwrap().to_owned()
    }

    /// The key that it shows.
    fn shown_key(&self) -> Option<String> {
        let (_, rest) = self.body.split_once("<code>qt-")?;
        Some(format!("qt-{}", rest.split('<').next()?))
    }
}

impl Browser<'_> {
    fn cookie_header(&self) -> String {
        let cookies = self.cookies.borrow();
        let pairs: Vec<String> = cookies.iter().map(|(k, v)| format!("{k}={v}")).collect();
        pairs.join("; ")
    }

    fn read(&self, mut response: ureq::http::Response<ureq::Body>) -> Page {
        for cookie in response.headers().get_all("set-cookie") {
            let pair = cookie.to_str().unwrap().split(';').next().unwrap();
            let (name, value) = pair.split_once('=').unwrap();
            self.cookies
                .borrow_mut()
                .insert(name.to_owned(), value.to_owned());
        }
        Page {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            body: response.body_mut().read_to_string().unwrap(),
        }
    }

    fn get(&self, path: &str) -> Page {
        let request = self
            .agent
            .get(format!("http://{}{path}", self.server.address))
            .header("accept", "text/html")
            .header("cookie", self.cookie_header());
        self.read(request.call().unwrap())
    }

    fn post(&self, path: &str, fields: &[(&str, &str)]) -> Page {
        let request = self
            .agent
            .post(format!("http://{}{path}", self.server.address))
            .header("cookie", self.cookie_header())
            .content_type("application/x-www-form-urlencoded");
        let body = serde_urlencoded::to_string(fields).unwrap();
        self.read(request.send(body).unwrap())
    }

    /// Fills in a form of the page at `from` and sends it.
    fn send(&self, from: &str, path: &str, fields: &[(&str, &str)]) -> Page {
        let token = self.get(from).token();
        let mut all = vec![("form_token", token.as_str())];
        all.extend(fields);
        self.post(path, &all)
    }

    fn embed(&self, key: &str, body: &str) -> u16 {
        let authorization = format!("Bearer {key}");
        let headers = [("authorization", authorization.as_str())];
        self.server
            .post_with("/v1/embeddings", &headers, body)
            .status
    }

    /// Leaves a batch of so many lines, and gives it as the API does.
    fn batch(&self, key: &NewKey, lines: usize, metadata: &Value) -> Value {
        let lines: String = (0..lines)
            .map(|number| {
                let body = json!({"input": format!("stork number {number}")});
                let line = json!({"custom_id": format!("n{number}"), "method": "POST", "url": "/v1/embeddings", "body": body});
                format!("{line}\n")
            })
            .collect();
        let file = self.server.upload(Some(text(key)), "batch", &lines).json();
        let asked = json!({
            "input_file_id": file["id"],
            "endpoint": "/v1/embeddings",
            "completion_window": "24h",
            "metadata": metadata,
        });
        let authorization = format!("Bearer {}", text(key));
        let headers = [("authorization", authorization.as_str())];
        let answer = self
            .server
            .post_with("/v1/batches", &headers, asked.to_string());
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.json()
    }

    /// What the API says of it once it has this status.
    fn batch_once(&self, key: &NewKey, batch: &Value, status: &str) -> Value {
        let started = Instant::now();
        let path = format!("/v1/batches/{}", id(batch));
        loop {
            let found: Value = serde_json::from_str(&self.api(key, &path)).unwrap();
            if found["status"] == status {
                return found;
            }
            assert!(started.elapsed() < Duration::from_secs(60), "{found}");
            std::thread::yield_now();
        }
    }

    fn api(&self, key: &NewKey, path: &str) -> String {
        let authorization = format!("Bearer {}", text(key));
        let headers = [("authorization", authorization.as_str())];
        self.server.get_with(path, &headers).body
    }
}

fn id(batch: &Value) -> &str {
    batch["id"].as_str().unwrap()
}

#[test]
fn a_server_without_accounts_says_so() {
    let server = Running::start(Config::default());
    let headers = [("accept", "text/html")];
    for path in ["/sign-in", "/sign-up", "/account/overview", "/admin/live"] {
        let answer = server.get_with(path, &headers);
        assert_eq!(answer.status, 404, "{path}");
        assert!(
            answer
                .header("content-type")
                .unwrap()
                .starts_with("text/html")
        );
        assert!(
            answer.body.contains("This server keeps no accounts"),
            "{path}"
        );
    }
    assert!(
        !server
            .get_with("/", &headers)
            .body
            .contains("/account/overview")
    );
}

#[test]
fn a_session_begins_with_a_key_and_ends_at_the_door() {
    let hosted = Hosted::priced();
    let (_, key) = hosted.key("Storks", &[Scope::Embed]);
    let browser = hosted.browser();
    let turned_away = browser.get("/account/keys");
    assert_eq!(turned_away.status, 303);
    assert_eq!(
        turned_away.header("location"),
        "/sign-in?next=/account/keys"
    );

    let wrong = browser.send("/sign-in", "/sign-in", &[("key", "qt-wrong-key")]);
    assert_eq!(wrong.status, 401);
    assert!(wrong.body.contains("Incorrect API key provided"));
    assert!(
        !wrong.body.contains("qt-wrong-key"),
        "a wrong key is not shown"
    );

    let next = [("key", text(&key)), ("next", "/account/keys")];
    let right = browser.send("/sign-in", "/sign-in", &next);
    assert_eq!(
        (right.status, right.header("location")),
        (303, "/account/keys")
    );
    let cookie = right.header("set-cookie");
    for word in [
        "quintet-session=",
        "; HttpOnly",
        "; SameSite=Strict",
        "; Max-Age=43200",
    ] {
        assert!(cookie.contains(word), "{cookie}");
    }
    assert!(!cookie.contains(text(&key)));

    let page = browser.get("/account/overview");
    assert_eq!(page.status, 200);
    assert_eq!(page.header("cache-control"), "no-store");
    let policy = page.header("content-security-policy");
    assert!(policy.contains("form-action 'self'") && !policy.contains("unsafe"));
    assert!(page.body.contains("Storks") && page.body.contains("$1.00"));
    assert!(page.body.contains("Nothing was billed in these days."));

    let kept = browser.cookies.borrow().clone();
    let out = browser.send("/account/overview", "/sign-out", &[]);
    assert_eq!((out.status, out.header("location")), (303, "/sign-in"));
    assert!(out.header("set-cookie").contains("Max-Age=0"));
    // Whoever kept the cookie has nothing of it.
    *browser.cookies.borrow_mut() = kept;
    assert_eq!(browser.get("/account/overview").status, 303);
}

#[test]
fn signing_in_again_ends_the_session_before() {
    let hosted = Hosted::priced();
    let (_, key) = hosted.key("Storks", &[Scope::Embed]);
    let browser = hosted.visitor(&key);
    let before = browser.cookies.borrow().clone();
    let again = browser.send("/sign-in", "/sign-in", &[("key", text(&key))]);
    assert_eq!(again.status, 303);
    assert_eq!(browser.get("/account/overview").status, 200);
    *browser.cookies.borrow_mut() = before;
    assert_eq!(browser.get("/account/overview").status, 303);
}

#[test]
fn a_revoked_key_ends_its_sessions() {
    let hosted = Hosted::priced();
    let (_, key) = hosted.key("Storks", &[Scope::Embed]);
    let browser = hosted.visitor(&key);
    assert_eq!(browser.get("/account/overview").status, 200);
    hosted.change(|database, change| keys::revoke(database, change, &key.key.id));
    assert_eq!(browser.get("/account/overview").status, 303);
}

#[test]
fn a_form_from_elsewhere_changes_nothing() {
    let hosted = Hosted::priced();
    let (account, key) = hosted.key("Storks", &[Scope::Embed, Scope::Account, Scope::Admin]);
    let (_, other) = hosted.key("Herons", &[Scope::Account]);
    let browser = hosted.visitor(&key);
    let strange = hosted.visitor(&other).get("/account/keys").token();
    let revoke = format!("/account/keys/{}/revoke", key.key.id);
    let grant = format!("/admin/accounts/{account}/credit");
    for path in [
        "/account/keys",
        &revoke,
        &grant,
        "/admin/accounts",
        "/sign-out",
    ] {
        for token in ["", &strange] {
            let fields = [("form_token", token), ("name", "x"), ("amount", "5")];
            let answer = browser.post(path, &fields);
            assert_eq!(answer.status, 403, "{path} {token}");
            assert!(answer.body.contains("came from elsewhere"));
        }
        // Nor without any field.
        assert_eq!(browser.post(path, &[]).status, 403, "{path}");
    }
    // Nor from another site's sign-in, which would have the visitor use a stranger's account.
    assert_eq!(
        hosted
            .browser()
            .post("/sign-in", &[("key", text(&key))])
            .status,
        403
    );
    let mut database = hosted.location.open().unwrap();
    let keys = keys::list(&mut *database, Some(&account), Time::now()).unwrap();
    assert!(keys.len() == 1 && keys[0].revoked_at.is_none());
    assert_eq!(accounts::list(&mut *database).unwrap().len(), 2);
    assert_eq!(
        accounts::find(&mut *database, &account)
            .unwrap()
            .balance_usd,
        "1".parse::<PicoUsd>().unwrap()
    );
    assert_eq!(browser.get("/account/overview").status, 200);
}

#[test]
fn the_cookie_opens_no_route_of_the_api() {
    let hosted = Hosted::priced();
    let (_, key) = hosted.key("Storks", &[Scope::Embed, Scope::Account, Scope::Admin]);
    let browser = hosted.visitor(&key);
    let cookie = browser.cookie_header();
    let headers = [("cookie", cookie.as_str())];
    for path in [
        "/account",
        "/v1/account",
        "/v1/admin/accounts",
        "/v1/models",
    ] {
        assert_eq!(hosted.server.get_with(path, &headers).status, 401, "{path}");
    }
    let body = r#"{"input": "a stork"}"#;
    let answer = hosted.server.post_with("/v1/embeddings", &headers, body);
    assert_eq!(answer.status, 401);
    // A browser finds the page there, and a program with a key the answer.
    let page = browser.get("/account");
    assert_eq!(
        (page.status, page.header("location")),
        (303, "/account/overview")
    );
    let authorization = format!("Bearer {}", text(&key));
    let headers = [
        ("authorization", authorization.as_str()),
        ("accept", "text/html"),
    ];
    assert_eq!(
        hosted.server.get_with("/account", &headers).json()["object"],
        "account"
    );
    let link = browser.get(&format!("/account?key={}", text(&key)));
    assert!(link.body.starts_with('{'));
}

#[test]
fn a_key_is_made_shown_once_bounded_renewed_and_ended() {
    let hosted = Hosted::priced();
    let (_, key) = hosted.key("Storks", &[Scope::Account]);
    let (_, other) = hosted.key("Herons", &[Scope::Embed]);
    let browser = hosted.visitor(&key);
    let fields = [
        ("name", "the website"),
        ("monthly_budget", "0.5"),
        ("requests_per_minute", "2"),
        ("task", "retrieval.query"),
        ("task", "retrieval.passage"),
        ("default_task", "retrieval.query"),
        ("end", "2099-01-01"),
    ];
    let made = browser.send("/account/keys", "/account/keys", &fields);
    assert_eq!(
        (made.status, made.header("cache-control")),
        (200, "no-store")
    );
    let secret = made.shown_key().unwrap();
    assert!(browser.get("/account/keys").shown_key().is_none());
    let body = r#"{"input": "a stork"}"#;
    assert_eq!(browser.embed(&secret, body), 200);
    assert_eq!(
        browser.embed(&secret, r#"{"input": "a", "task": "separation"}"#),
        403
    );
    assert_eq!(browser.embed(&secret, body), 429, "two a minute");

    let id = keys::parts(&secret).unwrap().0.to_owned();
    let path = format!("/account/keys/{id}");
    let page = browser.get(&path);
    for words in ["the website", "$0.50", "2 requests a minute", "2099-01-01"] {
        assert!(page.body.contains(words), "{words}");
    }
    let fields = [("name", "the shop"), ("requests_per_minute", "")];
    assert_eq!(browser.send(&path, &path, &fields).status, 303);
    assert_eq!(browser.embed(&secret, body), 200, "no limit any more");
    assert!(browser.get(&path).body.contains("the shop"));

    let rotated = browser.send(&path, &format!("{path}/rotate"), &[]);
    let renewed = rotated.shown_key().unwrap();
    assert_ne!(renewed, secret);
    assert_eq!(browser.embed(&renewed, body), 200);
    assert_eq!(browser.embed(&secret, body), 200, "for a day");

    let revoked = browser.send(&path, &format!("{path}/revoke"), &[]);
    assert_eq!(
        (revoked.status, revoked.header("location")),
        (303, "/account/keys")
    );
    assert_eq!(browser.embed(&renewed, body), 401);
    let audit = hosted.change(|database, _| accounts::audit_trail(database, 20));
    let own: Vec<&str> = audit
        .iter()
        .filter(|entry| entry.actor == key.key.id)
        .map(|entry| entry.action.as_str())
        .collect();
    let expected = [
        "keys.revoke",
        "keys.rotate",
        "keys.limit",
        "keys.rename",
        "keys.create",
        "sessions.open",
    ];
    assert_eq!(own, expected);

    // Another account's key is not there, for reading and for changing.
    let path = format!("/account/keys/{}", other.key.id);
    assert_eq!(browser.get(&path).status, 404);
    let token = browser.get("/account/keys").token();
    for path in [
        path.clone(),
        format!("{path}/revoke"),
        format!("{path}/rotate"),
    ] {
        let fields = [("form_token", token.as_str()), ("name", "mine")];
        assert_eq!(browser.post(&path, &fields).status, 404, "{path}");
    }
    assert_eq!(browser.embed(text(&other), body), 200);
}

#[test]
fn what_was_filled_in_wrongly_is_said_and_kept() {
    let hosted = Hosted::priced();
    let (account, key) = hosted.key("Storks", &[Scope::Account]);
    let browser = hosted.visitor(&key);
    for (field, value, words) in [
        (
            "requests_per_minute",
            "many",
            "Requests a minute: `many` is no whole number",
        ),
        (
            "monthly_budget",
            "-1",
            "Dollars a month: expected more than nothing",
        ),
        (
            "end",
            "2001-01-01",
            "Ends: expected a day that is still to come",
        ),
        ("task", "flying", "may not use the task `flying`"),
        ("name", "", "Name: expected what the key is called"),
    ] {
        let fields = [("name", "kept"), (field, value)];
        let fields = if field == "name" {
            &fields[1..]
        } else {
            &fields[..]
        };
        let answer = browser.send("/account/keys", "/account/keys", fields);
        assert!((400..=403).contains(&answer.status), "{field}");
        assert!(answer.body.contains(words), "{field}: {}", answer.body);
        assert!(field == "name" || answer.body.contains("value=\"kept\""));
        assert!(answer.shown_key().is_none());
    }
    let mut database = hosted.location.open().unwrap();
    assert_eq!(
        keys::list(&mut *database, Some(&account), Time::now())
            .unwrap()
            .len(),
        1
    );
}

#[test]
fn a_key_without_the_scope_looks_and_changes_nothing() {
    let hosted = Hosted::priced();
    let (_, key) = hosted.key("Storks", &[Scope::Embed]);
    let browser = hosted.visitor(&key);
    let page = browser.get("/account/keys");
    assert!(!page.body.contains("Make a key") && page.body.contains("may look and not change"));
    let own = format!("/account/keys/{}", key.key.id);
    assert!(!browser.get(&own).body.contains("Revoke"));
    for path in [
        "/account/keys",
        &own,
        &format!("{own}/rotate"),
        &format!("{own}/revoke"),
    ] {
        let answer = browser.send("/account/keys", path, &[("name", "x")]);
        assert_eq!(answer.status, 403, "{path}");
        assert!(answer.body.contains("lacks the scope `account`"));
    }
    assert_eq!(browser.get("/admin/live").status, 403);
}

#[test]
fn a_stranger_opens_an_account_where_that_is_allowed() {
    let hosted = Hosted::start(HostingConfig {
        sign_up: SignUp::Open,
        free_credit: "0.25".parse().unwrap(),
        ..HostingConfig::default()
    });
    let browser = hosted.browser();
    assert!(browser.get("/sign-up").body.contains("$0.25 of credit"));
    let nameless = browser.send("/sign-up", "/sign-up", &[("name", " ")]);
    assert_eq!(nameless.status, 400);
    let opened = browser.send("/sign-up", "/sign-up", &[("name", "Storks & Sons")]);
    assert_eq!(
        (opened.status, opened.header("cache-control")),
        (200, "no-store")
    );
    assert!(opened.body.contains("Storks &#38; Sons"), "{}", opened.body);
    assert_eq!(
        browser.embed(&opened.shown_key().unwrap(), r#"{"input": "a"}"#),
        200
    );
    // They are signed in, and may make keys.
    let page = browser.get("/account/overview");
    assert!(page.body.contains("free credit") && page.body.contains("$0.25"));
    assert!(browser.get("/account/keys").body.contains("Make a key"));

    let closed = Hosted::priced();
    assert!(
        closed
            .browser()
            .get("/sign-up")
            .body
            .contains("opened by its operator")
    );
    assert!(!closed.browser().get("/sign-in").body.contains("/sign-up"));
}

#[test]
fn an_invitation_opens_one_account() {
    let hosted = Hosted::start(HostingConfig {
        sign_up: SignUp::Invite,
        ..HostingConfig::default()
    });
    let code = hosted
        .change(|database, change| accounts::invite(database, change, Time(change.now.0 + 60_000)));
    let browser = hosted.browser();
    let send = |code: &str| {
        let fields = [("name", "Storks"), ("invitation", code)];
        browser.send("/sign-up", "/sign-up", &fields)
    };
    let wrong = send("invite-wrong");
    assert_eq!(wrong.status, 403);
    assert!(wrong.body.contains("value=\"Storks\""));
    assert_eq!(send(&code).status, 200);
    assert_eq!(send(&code).status, 403);
}

#[test]
fn usage_the_ledger_and_its_csv_say_what_was_billed() {
    let hosted = Hosted::priced();
    let (_, key) = hosted.key("Storks", &[Scope::Embed]);
    let (_, other) = hosted.key("Herons", &[Scope::Embed]);
    let browser = hosted.visitor(&key);
    let authorization = format!("Bearer {}", text(&key));
    let mut tokens = BTreeMap::new();
    for (id, task) in [("req-a", "retrieval.query"), ("req-b", "separation")] {
        let headers = [
            ("authorization", authorization.as_str()),
            ("x-request-id", id),
        ];
        let body = format!(r#"{{"input": "where do storks go", "task": "{task}"}}"#);
        let answer = hosted.server.post_with("/v1/embeddings", &headers, body);
        let count = answer.json()["usage"]["total_tokens"].as_u64().unwrap();
        tokens.insert(task, count);
    }
    // One request of two tasks counts once, and its tokens where they belong.
    let body =
        r#"{"input": [{"text": "a b c d", "task": "raw"}, {"text": "a", "task": "separation"}]}"#;
    let headers = [("authorization", authorization.as_str())];
    let answer = hosted.server.post_with("/v1/embeddings", &headers, body);
    let raw = answer.json()["data"][0]["tokens"].as_u64().unwrap();
    let separation = answer.json()["data"][1]["tokens"].as_u64().unwrap();
    assert_eq!(browser.embed(text(&other), r#"{"input": "not mine"}"#), 200);

    let page = browser.get("/account/overview?days=7&show=tokens").body;
    let query = tokens["retrieval.query"];
    let separation = separation + tokens["separation"];
    let total = query + separation + raw;
    for words in [
        format!("<dd>{total}</dd>"),
        "<dt>Requests</dt><dd>3</dd>".to_owned(),
        format!("retrieval.query {query}"),
        format!("separation {separation}"),
        format!("raw {raw}"),
        format!("tokens by key: first {total}"),
    ] {
        assert!(page.contains(&words), "{words}: {page}");
    }

    let page = browser.get("/account/ledger").body;
    assert!(page.contains("<code>req-a</code>") && page.contains("a gift"));
    let csv = browser.get("/account/ledger.csv");
    assert!(
        csv.header("content-disposition")
            .starts_with("attachment; filename=\"ledger-acct-")
    );
    let lines: Vec<&str> = csv.body.lines().collect();
    assert!(lines[0].starts_with("seq,at,account_id,key_id,kind,amount_usd"));
    assert_eq!(lines.len(), 1 + 1 + 3, "{}", csv.body);
    assert!(csv.body.contains("req-b") && !csv.body.contains(&other.key.account_id));
    let none = browser
        .get("/account/ledger.csv?from=2001-01-01&until=2001-12-31")
        .body;
    assert_eq!(none.lines().count(), 1);
    let today = &Time::now().to_string()[..10];
    let all = browser
        .get(&format!("/account/ledger.csv?from={today}&until={today}"))
        .body;
    assert_eq!(all.lines().count(), 5);
    // As browsers ask for it.
    let zipped = browser
        .agent
        .get(format!(
            "http://{}/account/ledger.csv",
            hosted.server.address
        ))
        .header("cookie", browser.cookie_header())
        .header("accept-encoding", "gzip")
        .call()
        .unwrap();
    assert_eq!(zipped.headers()["content-encoding"], "gzip");
    assert!(zipped.into_body().read_to_vec().is_ok(), "it comes whole");
    assert_eq!(
        browser.get("/account/ledger.csv?from=yesterday").status,
        400
    );
}

#[test]
fn a_long_ledger_comes_in_pages_and_as_one_file() {
    let hosted = Hosted::priced();
    let (account, key) = hosted.key("Storks", &[Scope::Embed]);
    let cent: PicoUsd = "0.01".parse().unwrap();
    hosted.change(|database, change| {
        for number in 0..1200 {
            let note = format!("=gift {number}");
            accounts::grant(database, change, &account, cent, Some(&note))?;
        }
        Ok(())
    });
    let browser = hosted.visitor(&key);
    let mut path = "/account/ledger".to_owned();
    let mut seen = Vec::new();
    loop {
        let page = browser.get(&path).body;
        let numbers = page.split("<small>no. ").skip(1);
        seen.extend(numbers.map(|rest| rest.split('<').next().unwrap().parse::<i64>().unwrap()));
        match page.split_once("href=\"/account/ledger?before=") {
            Some((_, rest)) => {
                let before = rest.split('"').next().unwrap();
                path = format!("/account/ledger?before={before}");
            }
            None => break,
        }
    }
    let expected: Vec<i64> = (1..=1201).rev().collect();
    assert_eq!(seen, expected);
    let csv = browser.get("/account/ledger.csv").body;
    assert_eq!(csv.lines().count(), 1202);
    assert!(csv.contains(",'=gift 7,"), "no formula for a spreadsheet");
    for before in ["x", "-1", "999999999", "9999999999999999999999"] {
        let page = browser.get(&format!("/account/ledger?before={before}"));
        assert_eq!(page.status, 200, "{before}");
    }
}

#[test]
fn an_operator_opens_credits_bounds_and_closes_accounts() {
    let hosted = Hosted::priced();
    let (_, admin) = hosted.key("Operators", &[Scope::Admin]);
    let (_, other) = hosted.key("Herons", &[Scope::Embed]);
    let browser = hosted.visitor(&admin);
    let fields = [("name", "Storks Ltd"), ("credit", "2.50")];
    let created = browser.send("/admin/accounts", "/admin/accounts", &fields);
    assert_eq!(created.status, 303, "{}", created.body);
    let path = created.header("location").to_owned();
    let id = path.rsplit('/').next().unwrap();
    assert!(browser.get("/admin/accounts").body.contains("Storks Ltd"));

    let grant = format!("{path}/credit");
    let fields = [("amount", "-0.5"), ("note", "returned")];
    assert_eq!(browser.send(&path, &grant, &fields).status, 303);
    for (amount, words) in [("much", "is no amount"), ("0", "expected an amount")] {
        let refused = browser.send(&path, &grant, &[("amount", amount)]);
        assert_eq!(refused.status, 400);
        assert!(refused.body.contains(words));
    }
    let page = browser.get(&path).body;
    assert!(page.contains("$2.00") && page.contains("returned"));

    let fields = [("name", "shop"), ("scope", "embed"), ("scope", "account")];
    let made = browser.send(&path, &format!("{path}/keys"), &fields);
    let secret = made.shown_key().unwrap();
    let body = r#"{"input": "a stork"}"#;
    assert_eq!(browser.embed(&secret, body), 200);
    let key_id = keys::parts(&secret).unwrap().0;

    let limits = format!("{path}/limits");
    let bounded = browser.send(&path, &limits, &[("tokens_per_minute", "1234")]);
    assert_eq!(bounded.status, 303);
    assert!(
        browser
            .get(&path)
            .body
            .contains("at most 1,234 tokens a minute")
    );
    assert_eq!(browser.send(&path, &limits, &[]).status, 303);
    assert!(!browser.get(&path).body.contains("1,234"));

    let closed = format!("{path}/closed");
    assert_eq!(
        browser.send(&path, &closed, &[("closed", "yes")]).status,
        303
    );
    assert_eq!(browser.embed(&secret, r#"{"input": "closed"}"#), 403);
    assert!(browser.get(&path).body.contains("Open the account again"));
    assert_eq!(browser.send(&path, &closed, &[]).status, 303);
    assert_eq!(browser.embed(&secret, r#"{"input": "open"}"#), 200);

    // A key is revoked at its own account only.
    let strange = format!("{path}/keys/{}/revoke", other.key.id);
    assert_eq!(browser.send(&path, &strange, &[]).status, 404);
    assert_eq!(browser.embed(text(&other), body), 200);
    let own = format!("{path}/keys/{key_id}/revoke");
    assert_eq!(browser.send(&path, &own, &[]).status, 303);
    assert_eq!(browser.embed(&secret, body), 401);

    let audit = browser.get("/admin/audit").body;
    for words in [
        "accounts.create",
        "credit.grant",
        "accounts.close",
        "keys.revoke",
        id,
    ] {
        assert!(audit.contains(words), "{words}");
    }
    let live = browser.get("/admin/live").body;
    assert!(live.contains("Storks Ltd") && live.contains("Herons"));
    assert!(live.contains("Of the last 3 requests"), "{live}");
    assert_eq!(browser.get("/admin/accounts/acct-none").status, 404);
    let admin_home = browser.get("/admin");
    assert_eq!(admin_home.header("location"), "/admin/live");
}

#[test]
fn a_batch_shows_how_far_it_is_what_it_cost_and_its_files() {
    let hosted = Hosted::priced();
    let (account, key) = hosted.key("Storks", &[Scope::Embed]);
    let browser = hosted.visitor(&key);
    let empty = browser.get("/account/batches").body;
    assert!(empty.contains("No batches yet."), "{empty}");
    let batch = browser.batch(&key, 3, &json!({"job": "nightly"}));
    let batch = browser.batch_once(&key, &batch, "completed");
    let page = browser.get("/account/batches").body;
    let balance = hosted.change(|database, _| accounts::find(database, &account));
    let cost = 1_000_000_000_000 - balance.balance_usd.0;
    assert_eq!(
        cost,
        batch["usage"]["total_tokens"].as_i64().unwrap() * 10_000
    );
    for words in [
        id(&batch),
        "job: nightly",
        ">completed<",
        "3 of 3 lines",
        &format!("${}", PicoUsd(cost)),
        "ended after less than a minute",
    ] {
        assert!(page.contains(words), "{words} is not in {page}");
    }
    assert!(!page.contains("/cancel"), "it has ended");
    let output = batch["output_file_id"].as_str().unwrap();
    let file = browser.get(&format!("/account/files/{output}"));
    let content = browser.api(&key, &format!("/v1/files/{output}/content"));
    assert_eq!((file.status, &file.body), (200, &content));
    assert_eq!(file.body.lines().count(), 3);
    assert_eq!(file.header("cache-control"), "no-store");
    assert_eq!(
        file.header("content-disposition"),
        format!("attachment; filename=\"{output}.jsonl\"")
    );
    let input = batch["input_file_id"].as_str().unwrap();
    let deleted = browser
        .server
        .delete_with(&format!("/v1/files/{input}"), Some(text(&key)));
    assert_eq!(deleted.status, 200);
    let page = browser.get("/account/batches").body;
    assert!(page.contains("input, deleted") && page.contains(&format!("/account/files/{output}")));
    assert!(!page.contains(&format!("/account/files/{input}")));
    assert!(
        browser
            .get("/account/batches?show=open")
            .body
            .contains("No batch runs or waits.")
    );
    // Another account has neither the batch nor its files.
    let (_, other) = hosted.key("Cranes", &[Scope::Embed, Scope::Account]);
    let other = hosted.visitor(&other);
    assert!(!other.get("/account/batches").body.contains(id(&batch)));
    assert_eq!(other.get(&format!("/account/files/{output}")).status, 404);
    let after = format!("/account/batches?after={}", id(&batch));
    assert_eq!(other.get(&after).status, 404);
    assert_eq!(
        hosted
            .browser()
            .get(&format!("/account/files/{output}"))
            .status,
        303
    );
}

#[test]
fn what_is_wrong_with_a_batch_is_told_line_by_line() {
    let hosted = Hosted::priced();
    let (_, key) = hosted.key("Storks", &[Scope::Embed]);
    let browser = hosted.visitor(&key);
    let authorization = format!("Bearer {}", text(&key));
    let headers = [("authorization", authorization.as_str())];
    let file = hosted
        .server
        .upload(
            Some(text(&key)),
            "batch",
            "{\"custom_id\": \"a\"}\n<b>no line</b>\n",
        )
        .json();
    let asked = json!({"input_file_id": file["id"], "endpoint": "/v1/embeddings", "completion_window": "24h"});
    let batch = hosted
        .server
        .post_with("/v1/batches", &headers, asked.to_string())
        .json();
    browser.batch_once(&key, &batch, "failed");
    let page = browser.get("/account/batches").body;
    assert!(page.contains(">failed<"), "{page}");
    assert!(
        page.contains("Line 1: ") && page.contains("Line 2: "),
        "{page}"
    );
    assert!(
        page.contains("none ran") && !page.contains("<b>no line"),
        "{page}"
    );
}

#[test]
fn a_batch_is_cancelled_by_its_account_or_by_an_operator_and_the_trail_says_by_whom() {
    let hosted = Hosted::priced();
    let (account, key) = hosted.key("Storks", &[Scope::Embed]);
    let (_, admin) = hosted.key("Operators", &[Scope::Admin]);
    let (browser, operator) = (hosted.visitor(&key), hosted.visitor(&admin));
    assert!(
        operator
            .get("/admin/batches")
            .body
            .contains("No batches yet.")
    );
    let [own, operators] = [(); 2].map(|()| browser.batch(&key, 20_000, &json!({})));
    let own_path = format!("/account/batches/{}/cancel", id(&own));
    let operators_path = format!("/admin/batches/{account}/{}/cancel", id(&operators));
    let page = operator.get("/admin/batches");
    for words in ["Storks", id(&own), id(&operators), &operators_path] {
        assert!(page.body.contains(words), "{words} is not in {}", page.body);
    }
    assert!(
        !page.body.contains("/account/files/"),
        "texts are the account's"
    );
    // Without the form's token nothing happens, and not to the batch of another account.
    assert_eq!(browser.post(&own_path, &[]).status, 403);
    let (_, other) = hosted.key("Cranes", &[Scope::Embed, Scope::Account]);
    let other = hosted.visitor(&other);
    assert_eq!(other.send("/account/batches", &own_path, &[]).status, 404);
    let done = browser.send("/account/batches", &own_path, &[]);
    assert_eq!(
        (done.status, done.header("location")),
        (303, "/account/batches")
    );
    let done = operator.send("/admin/batches", &operators_path, &[]);
    assert_eq!(
        (done.status, done.header("location")),
        (303, "/admin/batches")
    );
    for batch in [&own, &operators] {
        browser.batch_once(&key, batch, "cancelled");
    }
    let again = browser.send("/account/batches", &own_path, &[]);
    assert_eq!(again.status, 409);
    assert!(again.body.contains("role=\"alert\""), "{}", again.body);
    let trail = operator.get("/admin/audit").body;
    assert_eq!(trail.matches("batches.cancel").count(), 2, "{trail}");
    for words in [id(&own), id(&operators), &key.key.id, &admin.key.id] {
        assert!(trail.contains(words), "{words} is not in {trail}");
    }
    let only = operator
        .get(&format!("/admin/batches?account={account}"))
        .body;
    assert!(only.contains("Batches of Storks") && only.contains(id(&own)));
    let none = operator.get(&format!(
        "/admin/batches?account={}",
        other_account(&hosted)
    ));
    assert!(none.body.contains("No batches yet."), "{}", none.body);
}

/// The account that has no batch.
fn other_account(hosted: &Hosted) -> String {
    let accounts = hosted.change(|database, _| accounts::list(database));
    let cranes = accounts.into_iter().find(|it| it.name == "Cranes");
    cranes.unwrap().id
}

#[test]
fn many_batches_come_in_pages() {
    let hosted = Hosted::priced();
    let (account, key) = hosted.key("Storks", &[Scope::Embed]);
    let (_, admin) = hosted.key("Operators", &[Scope::Admin]);
    hosted.change(|database, change| {
        let new = NewBatch {
            owner: account.clone(),
            key_id: Some(key.key.id.clone()),
            input_file_id: "file-a".to_owned(),
            metadata: None,
            window_ms: 1000,
            output_lifetime_ms: None,
        };
        let file = StoredFile {
            id: new.input_file_id.clone(),
            purpose: Purpose::Batch,
            filename: "a".to_owned(),
            bytes: 1,
            created: change.now,
            expires: None,
        };
        files::create(database, &account, &file, i64::MAX)?;
        for number in 0..45 {
            batches::create(database, &new, 100, Time(change.now.0 + number))?;
        }
        Ok(())
    });
    let ids = |page: &str| {
        let parts = page.split("<th scope=\"row\"><code>").skip(1);
        let ids = parts.map(|part| part.split('<').next().unwrap().to_owned());
        ids.collect::<Vec<_>>()
    };
    let older = |page: &str| {
        let (_, rest) = page.split_once("after=")?;
        Some(rest.split('"').next()?.to_owned())
    };
    for (visitor, path) in [
        (hosted.visitor(&key), "/account/batches"),
        (hosted.visitor(&admin), "/admin/batches"),
    ] {
        let (mut seen, mut sizes) = (Vec::new(), Vec::new());
        let mut next = Some(visitor.get(path).body);
        while let Some(page) = next {
            sizes.push(ids(&page).len());
            seen.extend(ids(&page));
            next = older(&page).map(|after| visitor.get(&format!("{path}?after={after}")).body);
        }
        assert_eq!(sizes, [20, 20, 5], "{path}");
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), 45, "{path}");
    }
}

#[test]
fn nobody_but_an_operator_reaches_the_operators_pages() {
    let hosted = Hosted::priced();
    let (account, key) = hosted.key("Storks", &[Scope::Embed, Scope::Account]);
    let browser = hosted.visitor(&key);
    let of_account = format!("/admin/accounts/{account}");
    for path in [
        "/admin/live",
        "/admin/accounts",
        "/admin/batches",
        "/admin/audit",
        &of_account,
    ] {
        let answer = browser.get(path);
        assert_eq!(answer.status, 403, "{path}");
        assert!(answer.body.contains("lacks the scope `admin`"));
        assert_eq!(hosted.browser().get(path).status, 303, "{path}");
    }
    let token = browser.get("/account/keys").token();
    let key_path = format!("keys/{}/revoke", key.key.id);
    for action in [
        "",
        "/credit",
        "/limits",
        "/closed",
        "/keys",
        &format!("/{key_path}"),
    ] {
        let path = match action {
            "" => "/admin/accounts".to_owned(),
            action => format!("{of_account}{action}"),
        };
        let fields = [
            ("form_token", token.as_str()),
            ("name", "x"),
            ("amount", "9"),
        ];
        assert_eq!(browser.post(&path, &fields).status, 403, "{path}");
        assert_eq!(hosted.browser().post(&path, &fields).status, 303, "{path}");
    }
    for path in [
        "/admin/invitations".to_owned(),
        format!("/admin/batches/{account}/batch_a/cancel"),
    ] {
        let answer = browser.post(&path, &[("form_token", &token)]);
        assert_eq!(answer.status, 403, "{path}");
    }
    let mut database = hosted.location.open().unwrap();
    assert_eq!(accounts::list(&mut *database).unwrap().len(), 1);
    assert!(browser.get("/account/overview").body.contains("$1.00"));
}

#[test]
fn what_people_write_is_never_markup() {
    let hosted = Hosted::start(HostingConfig {
        sign_up: SignUp::Open,
        ..HostingConfig::default()
    });
    let hostile = "\"'><img src=x onerror=alert(1)><script>alert(1)</script>&amp;";
    let browser = hosted.browser();
    let (_, admin) = hosted.key(hostile, &[Scope::Admin, Scope::Account]);
    let clean = |page: &Page, at: &str| {
        assert!(!page.body.contains("<img"), "{at}");
        assert!(!page.body.contains("<script>"), "{at}");
    };
    let query = hostile
        .replace('<', "%3C")
        .replace('>', "%3E")
        .replace('"', "%22");
    clean(
        &browser.get(&format!("/sign-in?next={}", query.replace(' ', "+"))),
        "sign-in",
    );
    let fields = [("key", hostile), ("next", hostile)];
    clean(&browser.send("/sign-in", "/sign-in", &fields), "wrong key");
    let fields = [("name", hostile), ("invitation", hostile)];
    clean(&browser.send("/sign-up", "/sign-up", &fields), "sign-up");
    let visitor = hosted.visitor(&admin);
    let account = format!("/admin/accounts/{}", admin.key.account_id);
    let (_, embedding) = hosted.key(hostile, &[Scope::Embed]);
    let own = hosted.visitor(&embedding);
    own.batch(&embedding, 1, &json!({hostile.get(..60).unwrap(): hostile}));
    let page = own.get("/account/batches");
    clean(&page, "/account/batches");
    assert!(page.body.contains("onerror=alert(1)"));
    let query = query.replace([' ', '&', '='], "+");
    for path in ["/account/batches", "/admin/batches"] {
        for name in ["show", "after", "account"] {
            clean(&visitor.get(&format!("{path}?{name}={query}")), path);
        }
    }
    for (from, path) in [
        ("/account/keys", "/account/keys"),
        ("/admin/accounts", "/admin/accounts"),
        (account.as_str(), &format!("{account}/credit")),
        (account.as_str(), &format!("{account}/keys")),
        (account.as_str(), &format!("{account}/limits")),
    ] {
        // As a name and note that are kept, then in every field at once.
        let kept = [("name", hostile), ("note", hostile), ("amount", "1")];
        clean(&visitor.send(from, path, &kept), path);
        let names = [
            "name",
            "note",
            "amount",
            "credit",
            "task",
            "default_task",
            "end",
            "scope",
            "monthly_budget",
            "requests_per_minute",
            "tokens_per_minute",
            "concurrent_requests",
        ];
        clean(
            &visitor.send(from, path, &names.map(|name| (name, hostile))),
            path,
        );
    }
    for path in [
        "/account/overview",
        "/account/keys",
        "/account/ledger",
        "/admin/live",
        "/admin/accounts",
        "/admin/batches",
        "/admin/audit",
        &account,
    ] {
        let page = visitor.get(path);
        assert_eq!(page.status, 200, "{path}");
        clean(&page, path);
        let found = page.body.matches("onerror=alert(1)").count();
        assert!(
            found > 0 || path == "/admin/live",
            "{path} shows the name as text"
        );
    }
}

#[test]
fn cookies_are_secure_behind_tls() {
    let hosted = Hosted::priced();
    let headers = [("accept", "text/html"), ("x-forwarded-proto", "https")];
    let page = hosted.server.get_with("/sign-in", &headers);
    let cookie = page.header("set-cookie").unwrap();
    assert!(cookie.starts_with("__Host-quintet-form=") && cookie.ends_with("; Secure"));
}

#[test]
fn a_form_is_small() {
    let hosted = Hosted::priced();
    let (_, key) = hosted.key("Storks", &[Scope::Account]);
    let browser = hosted.visitor(&key);
    let long = "x".repeat(20_000);
    let answer = browser.send("/account/keys", "/account/keys", &[("name", &long)]);
    assert_eq!(answer.status, 413);
    assert!(answer.header("content-type").starts_with("text/html"));
}
