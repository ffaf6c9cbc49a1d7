//! The books during one transaction: accounts and keys are read once, changed in memory and written
//! back at the end, so that many requests of one key cost a row each.

use std::collections::HashMap;

use super::batches::{self, Lease, Progress, StoredBatch};
use super::database::{Database, DatabaseError, Row, Value};
use super::ledger::{EntryKind, Event, Head};
use super::time::Time;
use super::usage::{self, DAY_MS, Slot, Sum};
use crate::batcher::Tier;
use crate::metering::admission::{self, Counters, Moment};
use crate::metering::pricing::tier_name;
use crate::metering::{AccountMeter, Allowances, Ask, KeyMeter, PicoUsd, Rates, Refusal, Refused};

/// How long and how often the same request is answered again without being billed again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryWindow {
    /// Milliseconds since it was billed.
    pub window_ms: i64,
    /// Answers beside the first.
    pub repeats: i64,
}

impl Default for RetryWindow {
    fn default() -> Self {
        Self {
            window_ms: 120_000,
            repeats: 3,
        }
    }
}

/// A request for work, before it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkRequest {
    /// Tokens that the model will see.
    pub tokens: u64,
    /// Price of each.
    pub price: PicoUsd,
    /// The model.
    pub model: String,
    /// Whose turn comes first, and which price.
    pub tier: Tier,
    /// The request's id.
    pub request_id: String,
    /// The same tokens by task, those with the most first; none where no task is told apart.
    pub tasks: Vec<(String, u64)>,
    /// Hash of key and body: a request with the same is the same again. `None` for what is never
    /// sent twice.
    pub digest: Option<[u8; 32]>,
}

impl WorkRequest {
    fn cost(&self) -> i64 {
        let tokens = i64::try_from(self.tokens).unwrap_or(i64::MAX);
        self.price.0.saturating_mul(tokens)
    }
}

/// Credit that is set aside for a request that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// Its number in the state.
    pub id: i64,
    /// The account that pays.
    pub account_id: String,
    /// The key that was sent.
    pub key_id: String,
    /// What is set aside: the price, or nothing for an answer that was paid for already.
    pub amount: PicoUsd,
    /// Whether it was.
    pub is_repeat: bool,
    /// What runs.
    pub work: WorkRequest,
}

/// Lines of a batch that were met, in the order of its input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetLines {
    /// The batch.
    pub batch_id: String,
    /// This server's word on it.
    pub lease: Lease,
    /// How far it is with these lines.
    pub progress: Progress,
}

/// How a request's bill came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// It was billed this much; nothing where it was paid for already.
    Billed(PicoUsd),
    /// Its hold was given back meanwhile, because this server was not seen for long, and the credit
    /// does not cover it any more. The answer must not be given out.
    Uncovered,
}

/// The books, open.
#[derive(Debug)]
pub struct Books<'a> {
    database: &'a mut dyn Database,
    server: i64,
    now: Moment,
    head: Head,
    retries: RetryWindow,
    accounts: HashMap<String, AccountMeter>,
    keys: HashMap<String, KeyMeter>,
    usage: HashMap<Slot, Sum>,
}

impl<'a> Books<'a> {
    /// Opens them at this time, inside a transaction that writes.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub fn open(
        database: &'a mut dyn Database,
        server: i64,
        now_ms: i64,
        retries: RetryWindow,
    ) -> Result<Self, DatabaseError> {
        let head = Head::read(database)?;
        Ok(Self {
            database,
            server,
            now: Moment::at(now_ms),
            head,
            retries,
            accounts: HashMap::new(),
            keys: HashMap::new(),
            usage: HashMap::new(),
        })
    }

    /// The ledger's own time, which a clock that is set back does not set back.
    fn ledger_ms(&self) -> i64 {
        self.now.ms.max(self.head.at_ms)
    }

    /// Counts a request that costs nothing.
    ///
    /// # Errors
    /// [`DatabaseError`]; a refusal is an answer.
    pub fn count(
        &mut self,
        key_id: &str,
        defaults: Rates,
    ) -> Result<Result<Allowances, Refused>, DatabaseError> {
        self.let_in(key_id, Ask::Count, defaults)
            .map(|(answer, _)| answer)
    }

    /// Lets a request in under this number and sets its price aside.
    ///
    /// # Errors
    /// [`DatabaseError`]; a refusal is an answer.
    pub fn admit(
        &mut self,
        hold_id: i64,
        key_id: &str,
        work: WorkRequest,
        defaults: Rates,
    ) -> Result<Result<(Hold, Allowances), Refused>, DatabaseError> {
        let ask = |cost| Ask::Work {
            tokens: work.tokens,
            cost,
        };
        self.admit_as(hold_id, key_id, ask, work.clone(), defaults)
    }

    /// The same for a line of a batch, which nobody waits for: it counts under no limit by the minute,
    /// and not among the requests that run at the same time.
    ///
    /// # Errors
    /// [`DatabaseError`]; a refusal is an answer.
    pub fn admit_line(
        &mut self,
        hold_id: i64,
        key_id: &str,
        work: WorkRequest,
    ) -> Result<Result<(Hold, Allowances), Refused>, DatabaseError> {
        let ask = |cost| Ask::Line { cost };
        self.admit_as(hold_id, key_id, ask, work, Rates::default())
    }

    fn admit_as(
        &mut self,
        hold_id: i64,
        key_id: &str,
        ask: impl FnOnce(PicoUsd) -> Ask,
        work: WorkRequest,
        defaults: Rates,
    ) -> Result<Result<(Hold, Allowances), Refused>, DatabaseError> {
        let is_repeat = self.was_answered(work.digest)?;
        let amount = PicoUsd(if is_repeat { 0 } else { work.cost() });
        let ask = ask(amount);
        let is_counted = i64::from(!matches!(ask, Ask::Line { .. }));
        let (allowances, account_id) = match self.let_in(key_id, ask, defaults)? {
            (Ok(allowances), account_id) => (allowances, account_id),
            (Err(refused), _) => return Ok(Err(refused)),
        };
        if is_repeat {
            self.repeated(work.digest)?;
        }
        let sql = "INSERT INTO holds (id, server, account_id, key_id, amount, is_counted) \
                   VALUES ($1, $2, $3, $4, $5, $6)";
        let parameters: [Value; 6] = [
            hold_id.into(),
            self.server.into(),
            (&account_id).into(),
            key_id.into(),
            amount.0.into(),
            is_counted.into(),
        ];
        self.database.execute(sql, &parameters)?;
        let hold = Hold {
            id: hold_id,
            account_id,
            key_id: key_id.to_owned(),
            amount,
            is_repeat,
            work,
        };
        Ok(Ok((hold, allowances)))
    }

    /// The account's id beside the answer, empty where the key is unknown.
    fn let_in(
        &mut self,
        key_id: &str,
        ask: Ask,
        defaults: Rates,
    ) -> Result<(Result<Allowances, Refused>, String), DatabaseError> {
        self.load(key_id)?;
        let Some(key) = self.keys.get_mut(key_id) else {
            return Ok((Err(Refusal::Key.into()), String::new()));
        };
        let account_id = key.account_id.clone();
        let Some(account) = self.accounts.get_mut(&account_id) else {
            return Ok((Err(Refusal::Closed.into()), account_id));
        };
        let admitted = admission::admit(account, key, ask, defaults, self.now);
        let allowances = admission::allowances(account, key, defaults, self.now);
        let answer = match admitted {
            Ok(()) => Ok(allowances),
            Err(refusal) => Err(Refused {
                refusal,
                allowances,
            }),
        };
        Ok((answer, account_id))
    }

    /// Bills a request whose answer is ready, in a new entry of the ledger.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub fn settle(&mut self, hold: &Hold) -> Result<Settled, DatabaseError> {
        let is_held = self.release(hold.id)?;
        self.load(&hold.key_id)?;
        if hold.is_repeat {
            return Ok(Settled::Billed(PicoUsd::ZERO));
        }
        // Two that ran at the same time were both let in as the first.
        if self.was_answered(hold.work.digest)? {
            self.repeated(hold.work.digest)?;
            return Ok(Settled::Billed(PicoUsd::ZERO));
        }
        let cost = hold.work.cost();
        let month = Moment::at(self.ledger_ms()).month;
        let (Some(account), Some(key)) = (
            self.accounts.get_mut(&hold.account_id),
            self.keys.get_mut(&hold.key_id),
        ) else {
            return Ok(Settled::Uncovered);
        };
        let available = account.balance.saturating_sub(account.counters.held);
        let Some(balance) = account.balance.checked_sub(cost) else {
            return Ok(Settled::Uncovered);
        };
        if !is_held && account.is_prepaid && cost > available.max(0) {
            return Ok(Settled::Uncovered);
        }
        account.balance = balance;
        key.month_spent = key.spent_in(month).saturating_add(cost);
        key.month = month;
        let event = Event {
            account_id: hold.account_id.clone(),
            key_id: Some(hold.key_id.clone()),
            kind: EntryKind::Usage,
            amount: PicoUsd(-cost),
            tokens: i64::try_from(hold.work.tokens).unwrap_or(i64::MAX),
            price: hold.work.price,
            model: Some(hold.work.model.clone()),
            tier: Some(tier_name(hold.work.tier).to_owned()),
            request_id: Some(hold.work.request_id.clone()),
            note: None,
        };
        self.append(PicoUsd(balance), event)?;
        self.add_usage(hold);
        if let Some(digest) = hold.work.digest {
            let sql = "INSERT INTO answered (digest, at_ms, repeats) VALUES ($1, $2, 0) \
                       ON CONFLICT (digest) DO UPDATE SET at_ms = excluded.at_ms, repeats = 0";
            let now = self.ledger_ms();
            self.database
                .execute(sql, &[digest.as_slice().into(), now.into()])?;
        }
        Ok(Settled::Billed(PicoUsd(cost)))
    }

    /// Bills lines of a batch and notes how far it is, both or nothing. Gives the batch as it is now;
    /// `None` where another server has it, or a line's price is not set aside any more. Then nothing
    /// was billed, and whatever was still held is given back.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub fn settle_lines(
        &mut self,
        holds: &[Hold],
        met: &MetLines,
    ) -> Result<Option<StoredBatch>, DatabaseError> {
        let mut is_ours = batches::held(self.database, &met.batch_id, met.lease)?.is_some();
        for hold in holds {
            let sql = "SELECT id FROM holds WHERE id = $1";
            is_ours &= !self.database.query(sql, &[hold.id.into()])?.is_empty();
        }
        if !is_ours {
            for hold in holds {
                self.release(hold.id)?;
            }
            return Ok(None);
        }
        let mut cost = PicoUsd::ZERO;
        for hold in holds {
            // What is held is covered.
            if let Settled::Billed(amount) = self.settle(hold)? {
                cost = PicoUsd(cost.0.saturating_add(amount.0));
            }
        }
        batches::advance(self.database, &met.batch_id, &met.progress, cost)?;
        batches::renew(self.database, &met.batch_id, met.lease, Time(self.now.ms))
    }

    /// Gives a hold back: the request failed, or nobody waits for it. Whether it was still held.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub fn release(&mut self, hold_id: i64) -> Result<bool, DatabaseError> {
        let sql = format!("SELECT {HOLD_COLUMNS} FROM holds WHERE id = $1");
        let held = self.database.query(&sql, &[hold_id.into()])?;
        self.give_back(&held)?;
        Ok(!held.is_empty())
    }

    fn free(&mut self, account_id: &str, key_id: &str, amount: i64, is_counted: i64) {
        let free = |counters: &mut Counters| {
            counters.held = counters.held.saturating_sub(amount);
            counters.running = counters.running.saturating_sub(is_counted);
        };
        if let Some(account) = self.accounts.get_mut(account_id) {
            free(&mut account.counters);
        }
        if let Some(key) = self.keys.get_mut(key_id) {
            free(&mut key.counters);
        }
    }

    /// Gives credit, or takes it back where the amount is negative. Gives the new balance; `None`
    /// for an account that is not there or a balance that no number holds.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub fn credit(
        &mut self,
        account_id: &str,
        amount: PicoUsd,
        note: Option<&str>,
    ) -> Result<Option<PicoUsd>, DatabaseError> {
        self.load_account(account_id)?;
        let Some(account) = self.accounts.get_mut(account_id) else {
            return Ok(None);
        };
        let Some(balance) = account.balance.checked_add(amount.0) else {
            return Ok(None);
        };
        account.balance = balance;
        let event = Event {
            account_id: account_id.to_owned(),
            key_id: None,
            kind: EntryKind::Credit,
            amount,
            tokens: 0,
            price: PicoUsd::ZERO,
            model: None,
            tier: None,
            request_id: None,
            note: note.map(str::to_owned),
        };
        self.append(PicoUsd(balance), event)?;
        Ok(Some(PicoUsd(balance)))
    }

    /// Behind the entry, so that the day is the entry's.
    fn add_usage(&mut self, hold: &Hold) {
        let day_ms = self.head.at_ms / DAY_MS * DAY_MS;
        let whole = [(String::new(), hold.work.tokens)];
        let tasks: &[(String, u64)] = match hold.work.tasks.as_slice() {
            [] => &whole,
            tasks => tasks,
        };
        for (index, (task, tokens)) in tasks.iter().enumerate() {
            let tokens = i64::try_from(*tokens).unwrap_or(i64::MAX);
            let slot = Slot {
                account_id: hold.account_id.clone(),
                day_ms,
                key_id: hold.key_id.clone(),
                task: task.clone(),
            };
            let sum = self.usage.entry(slot).or_default();
            *sum = sum.plus(Sum {
                requests: i64::from(index == 0),
                tokens,
                cost_usd: PicoUsd(hold.work.price.0.saturating_mul(tokens)),
            });
        }
    }

    fn append(&mut self, balance: PicoUsd, event: Event) -> Result<(), DatabaseError> {
        self.head.append(self.database, self.now.ms, balance, event)
    }

    /// Says that this server lives, and gives back what those hold that were not seen for
    /// `patience_ms`. Forgets answers that are too old to be asked for again.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub fn tidy(&mut self, patience_ms: i64) -> Result<(), DatabaseError> {
        let now = self.now.ms;
        let sql = "INSERT INTO servers (id, seen_ms) VALUES ($1, $2) \
                   ON CONFLICT (id) DO UPDATE SET seen_ms = excluded.seen_ms";
        self.database
            .execute(sql, &[self.server.into(), now.into()])?;
        // A clock that was set back makes times of the future; they count as old.
        let gone = "seen_ms < $1 OR seen_ms > $2";
        let bounds: [Value; 2] = [(now - patience_ms).into(), (now + patience_ms).into()];
        self.database
            .execute(&format!("DELETE FROM servers WHERE {gone}"), &bounds)?;
        let sql = format!(
            "SELECT {HOLD_COLUMNS} FROM holds WHERE server NOT IN (SELECT id FROM servers)"
        );
        let orphans = self.database.query(&sql, &[])?;
        self.give_back(&orphans)?;
        let old = self.ledger_ms() - self.retries.window_ms;
        self.database
            .execute("DELETE FROM answered WHERE at_ms < $1", &[old.into()])?;
        Ok(())
    }

    /// This server ends: whatever it still holds is given back.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub fn leave(&mut self) -> Result<(), DatabaseError> {
        let sql = format!("SELECT {HOLD_COLUMNS} FROM holds WHERE server = $1");
        let own = self.database.query(&sql, &[self.server.into()])?;
        self.give_back(&own)?;
        let sql = "DELETE FROM servers WHERE id = $1";
        self.database.execute(sql, &[self.server.into()])?;
        Ok(())
    }

    fn give_back(&mut self, holds: &[Row]) -> Result<(), DatabaseError> {
        for row in holds {
            let (id, key_id) = (row.int(0)?, row.text(2)?);
            self.load(&key_id)?;
            self.free(&row.text(1)?, &key_id, row.int(3)?, row.int(4)?);
            self.database
                .execute("DELETE FROM holds WHERE id = $1", &[id.into()])?;
        }
        Ok(())
    }

    /// Whether the same request was billed within the window, and may still be answered again.
    fn was_answered(&mut self, digest: Option<[u8; 32]>) -> Result<bool, DatabaseError> {
        let Some(digest) = digest else {
            return Ok(false);
        };
        let sql = "SELECT at_ms, repeats FROM answered WHERE digest = $1";
        let rows = self.database.query(sql, &[digest.as_slice().into()])?;
        let Some(row) = rows.first() else {
            return Ok(false);
        };
        let age_ms = self.ledger_ms() - row.int(0)?;
        Ok(age_ms < self.retries.window_ms && row.int(1)? < self.retries.repeats)
    }

    fn repeated(&mut self, digest: Option<[u8; 32]>) -> Result<(), DatabaseError> {
        let digest = digest.as_ref().map(<[u8; 32]>::as_slice);
        let sql = "UPDATE answered SET repeats = repeats + 1 WHERE digest = $1";
        self.database.execute(sql, &[digest.into()])?;
        Ok(())
    }

    fn load(&mut self, key_id: &str) -> Result<(), DatabaseError> {
        if self.keys.contains_key(key_id) {
            return Ok(());
        }
        let sql = "SELECT account_id, revoked_ms, expires_ms, requests_per_minute, tokens_per_minute, \
                   concurrent_requests, monthly_budget, month, month_spent, held, running, requests_full_us, \
                   tokens_full_us FROM keys WHERE id = $1";
        let rows = self.database.query(sql, &[key_id.into()])?;
        let Some(row) = rows.first() else {
            return Ok(());
        };
        let key = KeyMeter {
            account_id: row.text(0)?,
            revoked_ms: row.optional_int(1)?,
            expires_ms: row.optional_int(2)?,
            rates: rates(row, 3)?,
            monthly_budget: row.optional_int(6)?,
            month: row.int(7)?,
            month_spent: row.int(8)?,
            counters: counters(row, 9)?,
        };
        self.load_account(&key.account_id)?;
        self.keys.insert(key_id.to_owned(), key);
        Ok(())
    }

    fn load_account(&mut self, account_id: &str) -> Result<(), DatabaseError> {
        if self.accounts.contains_key(account_id) {
            return Ok(());
        }
        let sql = "SELECT closed_ms, is_prepaid, requests_per_minute, tokens_per_minute, concurrent_requests, \
                   balance, held, running, requests_full_us, tokens_full_us FROM accounts WHERE id = $1";
        let rows = self.database.query(sql, &[account_id.into()])?;
        let Some(row) = rows.first() else {
            return Ok(());
        };
        let account = AccountMeter {
            is_closed: row.optional_int(0)?.is_some(),
            is_prepaid: row.int(1)? != 0,
            rates: rates(row, 2)?,
            balance: row.int(5)?,
            counters: counters(row, 6)?,
        };
        self.accounts.insert(account_id.to_owned(), account);
        Ok(())
    }

    /// Writes back what changed. The transaction's commit makes it true.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub fn close(self) -> Result<(), DatabaseError> {
        for (id, account) in &self.accounts {
            let sql = "UPDATE accounts SET balance = $2, held = $3, running = $4, requests_full_us = $5, \
                       tokens_full_us = $6 WHERE id = $1";
            let mut parameters: Vec<Value> = vec![id.into(), account.balance.into()];
            parameters.extend(counter_values(&account.counters));
            self.database.execute(sql, &parameters)?;
        }
        for (id, key) in &self.keys {
            let sql = "UPDATE keys SET month = $2, month_spent = $3, held = $4, running = $5, \
                       requests_full_us = $6, tokens_full_us = $7 WHERE id = $1";
            let mut parameters: Vec<Value> =
                vec![id.into(), key.month.into(), key.month_spent.into()];
            parameters.extend(counter_values(&key.counters));
            self.database.execute(sql, &parameters)?;
        }
        usage::add(self.database, &self.usage)
    }
}

/// What is needed to give a hold back.
const HOLD_COLUMNS: &str = "id, account_id, key_id, amount, is_counted";

/// The limits in three columns from this one on.
pub(super) fn rates(row: &Row, column: usize) -> Result<Rates, DatabaseError> {
    let limit = |column| {
        let limit = row.optional_int(column)?;
        Ok::<_, DatabaseError>(limit.map(i64::unsigned_abs))
    };
    Ok(Rates {
        requests_per_minute: limit(column)?,
        tokens_per_minute: limit(column + 1)?,
        concurrent_requests: limit(column + 2)?,
    })
}

fn counters(row: &Row, column: usize) -> Result<Counters, DatabaseError> {
    Ok(Counters {
        held: row.int(column)?,
        running: row.int(column + 1)?,
        requests_full_us: row.int(column + 2)?,
        tokens_full_us: row.int(column + 3)?,
    })
}

fn counter_values(counters: &Counters) -> [Value; 4] {
    [
        counters.held.into(),
        counters.running.into(),
        counters.requests_full_us.into(),
        counters.tokens_full_us.into(),
    ]
}
