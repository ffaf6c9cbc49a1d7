//! The store against a simple reference: random orders of requests, grants, refusals, retries,
//! crashes and clocks that go back end with the same sums, to the pico-dollar and the token. The same
//! body runs on SQLite and, where `QUINTET_TEST_POSTGRES` names a server, on Postgres.
#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, its helpers too"
)]

#[cfg(feature = "postgres")]
#[path = "support/postgres.rs"]
mod postgres;

use std::collections::{BTreeMap, HashMap};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use quintet_server::batcher::Tier;
use quintet_server::metering::{PicoUsd, Rates, Refusal};
use quintet_server::store::accounts::{self, Change};
use quintet_server::store::books::{Books, Hold, RetryWindow};
use quintet_server::store::keys::{self, KeyLimits, KeyOptions, Scope};
use quintet_server::store::ledger::{self, Selection, UsageBy};
use quintet_server::store::sqlite::Sqlite;
use quintet_server::store::usage::{self, Sum};
use quintet_server::store::{
    Database, DatabaseError, Durability, Settled, StoreError, Time, WorkRequest, migrations,
    transaction,
};

const RETRIES: RetryWindow = RetryWindow {
    window_ms: 10_000,
    repeats: 2,
};
const PATIENCE_MS: i64 = 30_000;
/// 25 November 2026, 22:40 UTC.
const START_MS: i64 = 1_795_646_400_000;
const ACCOUNTS: usize = 2;
const KEYS_PER_ACCOUNT: usize = 2;
/// Of the first key of each account.
const BUDGET: i64 = 3_000_000;

/// One step. Numbers choose among what is there.
#[derive(Debug, Clone)]
enum Step {
    Grant {
        account: usize,
        amount: i64,
    },
    Admit {
        key: usize,
        tokens: u64,
        price: i64,
        digest: Option<u8>,
    },
    Settle {
        hold: usize,
    },
    Release {
        hold: usize,
    },
    /// The process ends as by `kill -9`: nobody knows its holds any more. Another one starts.
    Crash,
    Tidy,
    Leave,
    Clock {
        ms: i64,
    },
    Revoke {
        key: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let key = 0..ACCOUNTS * KEYS_PER_ACCOUNT;
    let digest = prop::option::weighted(0.7, 0u8..4);
    prop_oneof![
        2 => (0..ACCOUNTS, -500_000i64..4_000_000)
            .prop_map(|(account, amount)| Step::Grant { account, amount }),
        8 => (key.clone(), 0u64..600, prop::sample::select(vec![0i64, 1, 1000, 20_000]), digest)
            .prop_map(|(key, tokens, price, digest)| Step::Admit { key, tokens, price, digest }),
        6 => (0..8usize).prop_map(|hold| Step::Settle { hold }),
        2 => (0..8usize).prop_map(|hold| Step::Release { hold }),
        1 => Just(Step::Crash),
        1 => Just(Step::Tidy),
        1 => Just(Step::Leave),
        2 => prop_oneof![
            0i64..20_000,
            -90_000i64..90_000,
            Just(31 * 86_400_000i64),
        ].prop_map(|ms| Step::Clock { ms }),
        1 => key.prop_map(|key| Step::Revoke { key }),
    ]
}

/// Steps in transactions, each with whether it is kept or undone.
fn history() -> impl Strategy<Value = Vec<(Vec<Step>, bool)>> {
    let kept = prop::bool::weighted(0.85);
    prop::collection::vec((prop::collection::vec(step(), 1..6), kept), 1..14)
}

/// What the reference knows of an account.
#[derive(Debug, Clone, Default, PartialEq)]
struct AccountModel {
    balance: i64,
    entries: i64,
}

#[derive(Debug, Clone, PartialEq)]
struct KeyModel {
    account: usize,
    is_revoked: bool,
    budget: Option<i64>,
    /// Spent, by month.
    spent: BTreeMap<i64, i64>,
}

#[derive(Debug, Clone, PartialEq)]
struct HoldModel {
    server: i64,
    key: usize,
    amount: i64,
}

/// The simplest books that do the same: no tables, no chains, no batches.
#[derive(Debug, Clone)]
struct Model {
    accounts: Vec<AccountModel>,
    keys: Vec<KeyModel>,
    holds: BTreeMap<i64, HoldModel>,
    /// When each server was seen.
    servers: BTreeMap<i64, i64>,
    /// When each digest was billed, and how often it was answered again.
    answered: HashMap<[u8; 32], (i64, i64)>,
    tokens: i128,
    last_entry_ms: i64,
}

impl Model {
    fn held(&self, account: usize) -> i64 {
        let of_account = |hold: &&HoldModel| self.keys[hold.key].account == account;
        let holds = self.holds.values().filter(of_account);
        holds.map(|hold| hold.amount).sum()
    }

    fn key_held(&self, key: usize) -> i64 {
        let holds = self.holds.values().filter(|hold| hold.key == key);
        holds.map(|hold| hold.amount).sum()
    }

    fn is_free(&self, digest: Option<[u8; 32]>, now: i64) -> bool {
        let now = now.max(self.last_entry_ms);
        digest
            .and_then(|digest| self.answered.get(&digest))
            .is_some_and(|(at, repeats)| now - at < RETRIES.window_ms && *repeats < RETRIES.repeats)
    }

    fn entry(&mut self, account: usize, amount: i64, now: i64) {
        self.accounts[account].balance += amount;
        self.accounts[account].entries += 1;
        self.last_entry_ms = self.last_entry_ms.max(now);
    }
}

/// The store under test beside the reference.
struct World<'a> {
    database: &'a mut dyn Database,
    account_ids: Vec<String>,
    key_ids: Vec<String>,
    now: i64,
    server: i64,
    next_hold: i64,
    /// Holds that the running process knows.
    open: Vec<Hold>,
    model: Model,
}

impl<'a> World<'a> {
    fn new(database: &'a mut dyn Database) -> Self {
        let change = Change {
            actor: "test",
            now: Time(START_MS),
        };
        let mut account_ids = Vec::new();
        let mut key_ids = Vec::new();
        let mut models = Vec::new();
        transaction(database, Durability::Process, |database| {
            for account in 0..ACCOUNTS {
                let id = accounts::create(database, change, "a", true)?.id;
                for key in 0..KEYS_PER_ACCOUNT {
                    let monthly_budget = (key == 0).then_some(BUDGET);
                    let options = KeyOptions {
                        name: "k".to_owned(),
                        scopes: vec![Scope::Embed],
                        limits: KeyLimits {
                            rates: Rates::default(),
                            monthly_budget: monthly_budget.map(PicoUsd),
                        },
                        ..KeyOptions::default()
                    };
                    let made = keys::create(database, change, &id, "qt-", &options)?;
                    key_ids.push(made.key.id);
                    models.push(KeyModel {
                        account,
                        is_revoked: false,
                        budget: monthly_budget,
                        spent: BTreeMap::new(),
                    });
                }
                account_ids.push(id);
            }
            Ok::<_, StoreError>(())
        })
        .unwrap();
        Self {
            database,
            account_ids,
            key_ids,
            now: START_MS,
            server: 1,
            next_hold: 0,
            open: Vec::new(),
            model: Model {
                accounts: vec![AccountModel::default(); ACCOUNTS],
                keys: models,
                holds: BTreeMap::new(),
                servers: BTreeMap::new(),
                answered: HashMap::new(),
                tokens: 0,
                last_entry_ms: 0,
            },
        }
    }

    /// Runs steps in one transaction; where it is undone, the reference is too.
    fn run(&mut self, steps: &[Step], is_kept: bool) {
        let model = self.model.clone();
        let open = self.open.clone();
        self.database.begin(Durability::Process).unwrap();
        for step in steps {
            self.step(step);
        }
        if is_kept {
            self.database.commit().unwrap();
        } else {
            self.database.rollback().unwrap();
            self.model = model;
            self.open = open;
        }
    }

    fn books<T>(&mut self, work: impl FnOnce(&mut Books<'_>) -> Result<T, DatabaseError>) -> T {
        let mut books = Books::open(self.database, self.server, self.now, RETRIES).unwrap();
        let done = work(&mut books).unwrap();
        books.close().unwrap();
        done
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Grant { account, amount } => {
                let id = self.account_ids[account].clone();
                let balance = self.books(|books| books.credit(&id, PicoUsd(amount), Some("note")));
                self.model.entry(account, amount, self.now);
                assert_eq!(balance, Some(PicoUsd(self.model.accounts[account].balance)));
            }
            Step::Admit {
                key,
                tokens,
                price,
                digest,
            } => self.admit(key, tokens, price, digest.map(|digest| [digest; 32])),
            Step::Settle { hold } if !self.open.is_empty() => self.settle(hold % self.open.len()),
            Step::Release { hold } if !self.open.is_empty() => {
                let hold = self.open.remove(hold % self.open.len());
                let was_held = self.books(|books| books.release(hold.id));
                assert_eq!(was_held, self.model.holds.remove(&hold.id).is_some());
            }
            Step::Settle { .. } | Step::Release { .. } => {}
            Step::Crash => {
                self.open.clear();
                self.server += 1;
            }
            Step::Tidy => self.tidy(),
            Step::Leave => {
                self.books(|books| books.leave());
                let server = self.server;
                self.model.holds.retain(|_, hold| hold.server != server);
                self.model.servers.remove(&server);
            }
            Step::Clock { ms } => self.now += ms,
            Step::Revoke { key } => {
                let change = Change {
                    actor: "test",
                    now: Time(self.now),
                };
                keys::revoke(self.database, change, &self.key_ids[key]).unwrap();
                self.model.keys[key].is_revoked = true;
            }
        }
    }

    fn admit(&mut self, key: usize, tokens: u64, price: i64, digest: Option<[u8; 32]>) {
        // The key is a part of what the server hashes.
        let digest = digest.map(|digest| digest.map(|byte| byte * 16 + u8::try_from(key).unwrap()));
        let work = WorkRequest {
            tokens,
            price: PicoUsd(price),
            model: "mini".to_owned(),
            tier: Tier::Realtime,
            request_id: format!("req-{}", self.next_hold),
            tasks: [("raw", tokens / 3), ("separation", tokens - tokens / 3)]
                .map(|(task, tokens)| (task.to_owned(), tokens))
                .to_vec(),
            digest,
        };
        self.next_hold += 1;
        let (id, key_id) = (self.next_hold, self.key_ids[key].clone());
        let admitted = self.books(|books| books.admit(id, &key_id, work, Rates::default()));
        let admitted = admitted.map_err(|refused| refused.refusal);

        let model = &mut self.model;
        let is_free = model.is_free(digest, self.now);
        let cost = if is_free { 0 } else { tokens as i64 * price };
        let account = model.keys[key].account;
        let month = month(self.now);
        let spent = model.keys[key].spent.get(&month).copied().unwrap_or(0);
        let left = model.keys[key]
            .budget
            .map(|budget| budget - spent - model.key_held(key));
        let available = model.accounts[account].balance - model.held(account);
        if model.keys[key].is_revoked {
            assert_eq!(admitted.err(), Some(Refusal::Key));
        } else if left.is_some_and(|left| cost > left) {
            assert!(matches!(admitted, Err(Refusal::Budget { .. })));
        } else if cost > available.max(0) {
            assert!(matches!(admitted, Err(Refusal::Credit { .. })));
        } else {
            let (hold, _) = admitted.unwrap();
            assert_eq!((hold.amount.0, hold.is_repeat), (cost, is_free));
            if let (true, Some(digest)) = (is_free, digest) {
                model.answered.get_mut(&digest).unwrap().1 += 1;
            }
            let server = self.server;
            let amount = cost;
            model.holds.insert(
                id,
                HoldModel {
                    server,
                    key,
                    amount,
                },
            );
            self.open.push(hold);
        }
    }

    fn settle(&mut self, index: usize) {
        let hold = self.open.remove(index);
        let settled = self.books(|books| books.settle(&hold));
        let model = &mut self.model;
        let key = self
            .key_ids
            .iter()
            .position(|id| *id == hold.key_id)
            .unwrap();
        let account = model.keys[key].account;
        let is_held = model.holds.remove(&hold.id).is_some();
        let cost = hold.work.tokens as i64 * hold.work.price.0;
        if hold.is_repeat {
            assert_eq!(settled, Settled::Billed(PicoUsd(0)));
        } else if model.is_free(hold.work.digest, self.now) {
            assert_eq!(settled, Settled::Billed(PicoUsd(0)));
            model
                .answered
                .get_mut(&hold.work.digest.unwrap())
                .unwrap()
                .1 += 1;
        } else if !is_held && cost > (model.accounts[account].balance - model.held(account)).max(0)
        {
            assert_eq!(settled, Settled::Uncovered);
        } else {
            assert_eq!(settled, Settled::Billed(PicoUsd(cost)));
            let month = month(self.now.max(model.last_entry_ms));
            *model.keys[key].spent.entry(month).or_default() += cost;
            // Only this month's sum is kept.
            model.keys[key].spent.retain(|known, _| *known == month);
            model.entry(account, -cost, self.now);
            model.tokens += i128::from(hold.work.tokens);
            if let Some(digest) = hold.work.digest {
                model.answered.insert(digest, (model.last_entry_ms, 0));
            }
        }
    }

    fn tidy(&mut self) {
        self.books(|books| books.tidy(PATIENCE_MS));
        let (now, model) = (self.now, &mut self.model);
        model.servers.insert(self.server, now);
        model
            .servers
            .retain(|_, seen| (now - *seen).abs() <= PATIENCE_MS);
        let alive = model.servers.clone();
        model
            .holds
            .retain(|_, hold| alive.contains_key(&hold.server));
        let now = now.max(model.last_entry_ms);
        model
            .answered
            .retain(|_, (at, _)| now - *at <= RETRIES.window_ms);
    }

    /// The sums of both.
    fn compare(&mut self) {
        // Whatever the ledger says was used, the days say too.
        let billed = ledger::usage(self.database, &Selection::default(), UsageBy::Account).unwrap();
        let mut days: BTreeMap<String, Sum> = BTreeMap::new();
        for part in usage::since(self.database, None, 0).unwrap() {
            let sum = days.entry(part.account_id).or_default();
            *sum = sum.plus(part.sum);
        }
        let billed = billed.into_iter().map(|it| {
            let sum = Sum {
                requests: it.requests,
                tokens: it.tokens,
                cost_usd: it.cost_usd,
            };
            (it.group, sum)
        });
        assert_eq!(days, billed.collect());
        let verified = ledger::verify(self.database, None).unwrap();
        let entries: i64 = self
            .model
            .accounts
            .iter()
            .map(|account| account.entries)
            .sum();
        assert_eq!(
            (verified.entries, verified.tokens),
            (entries, self.model.tokens)
        );
        for (account, id) in self.account_ids.iter().enumerate() {
            let found = accounts::find(self.database, id).unwrap();
            assert_eq!(found.balance_usd.0, self.model.accounts[account].balance);
            assert_eq!(found.held_usd.0, self.model.held(account));
        }
        let month = month(self.now);
        for (key, id) in self.key_ids.iter().enumerate() {
            let found = keys::find(self.database, id, Time(self.now)).unwrap();
            let spent = self.model.keys[key].spent.get(&month).copied().unwrap_or(0);
            assert_eq!(found.month_spent_usd.0, spent);
        }
    }
}

/// Months since the year 0, by counting days.
fn month(ms: i64) -> i64 {
    let mut days = ms.div_euclid(86_400_000);
    let mut month = 1970 * 12;
    loop {
        let year = month / 12;
        let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let february = if is_leap { 29 } else { 28 };
        let lens = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
        let len = lens[usize::try_from(month % 12).unwrap()];
        if days < len {
            return month;
        }
        days -= len;
        month += 1;
    }
}

/// How many histories are tried; more by `QUINTET_TEST_HISTORIES`.
fn histories(default: u32) -> u32 {
    let number = std::env::var("QUINTET_TEST_HISTORIES").ok();
    number.map_or(default, |number| number.parse().unwrap())
}

fn run_histories(cases: u32, database: impl Fn() -> Box<dyn Database>) {
    let config = Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    };
    let tried = TestRunner::new(config).run(&history(), |history| {
        let mut database = database();
        let mut world = World::new(&mut *database);
        for (steps, is_kept) in history {
            world.run(&steps, is_kept);
            world.compare();
        }
        Ok(())
    });
    assert_eq!(tried.map_err(|error| error.to_string()), Ok(()));
}

/// A database of its own on the server that `QUINTET_TEST_POSTGRES` names.
#[cfg(feature = "postgres")]
#[test]
fn every_history_ends_with_the_same_sums_on_postgres() {
    let Some(location) = postgres::fresh("quintet_histories") else {
        return;
    };
    run_histories(histories(60).min(2000), || {
        let mut database = location.open().unwrap();
        database
            .script(
                "TRUNCATE accounts, keys, holds, servers, ledger, answered, invitations, audit, \
                 files, batches, sessions, usage_days",
            )
            .unwrap();
        database
    });
}

#[test]
fn every_history_ends_with_the_sums_of_the_reference() {
    run_histories(histories(500), || {
        let mut database = Sqlite::in_memory().unwrap();
        migrations::migrate(&mut database).unwrap();
        Box::new(database)
    });
}
