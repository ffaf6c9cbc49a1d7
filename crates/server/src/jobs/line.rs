//! One line of a batch through the model.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};

use super::lines::{Line, Task, custom_id};
use crate::app::{Service, SharedApp};
use crate::auth::{Auth, Caller};
use crate::batcher::Tier;
use crate::error::ApiError;
use crate::meter::Meter;
use crate::routes::embeddings::answer;
use crate::store::Charge;
use crate::store::keys::Key;

/// A line that was met, not yet written or billed.
#[derive(Debug)]
pub(super) struct Met {
    /// What is written, with the end of its line.
    pub(super) written: Vec<u8>,
    /// `None` where it belongs to the errors.
    pub(super) answered: Option<AnsweredLine>,
    /// Where the next line of the input begins.
    pub(super) end: u64,
}

/// What an answer costs.
#[derive(Debug)]
pub(super) struct AnsweredLine {
    pub(super) tokens: usize,
    /// Its price, set aside; `None` where nothing is billed.
    pub(super) charge: Option<Charge>,
}

/// A server that is full or whose database is down is asked again after this time.
const PAUSE: Duration = Duration::from_secs(1);

/// Who has a batch's lines run, and what names them.
#[derive(Debug, Clone)]
pub(super) struct Sender {
    pub(super) app: SharedApp,
    pub(super) service: Arc<Service>,
    pub(super) key: Option<Arc<Key>>,
    pub(super) batch_id: String,
}

impl Sender {
    /// Runs the line of this number, from 1, as often as the server is full. A refusal is an error line.
    pub(super) async fn run(self, line: Line, number: i64) -> Met {
        let Line { bytes, end } = line;
        // The same whenever the line is run again.
        let request_id = format!("{}-{number}", self.batch_id);
        let id = format!("batch_req_{}", request_id.trim_start_matches("batch_"));
        let Task { custom_id, request } = match Task::parse(&bytes) {
            Ok(task) => task,
            // It was checked, so the file was changed, or the program knows more than the one that did.
            Err(error) => {
                let error = ApiError::invalid(error.message);
                return Met::refused(&id, &custom_id(&bytes), &request_id, &error, end);
            }
        };
        loop {
            let meter = match (&self.app.auth, &self.key) {
                (Auth::Accounts(hosting), Some(key)) => {
                    Some(Arc::new(Meter::of_line(hosting, key, request_id.clone())))
                }
                _ => None,
            };
            let caller = Caller {
                key: self.key.clone(),
                meter: meter.clone(),
            };
            let service = Arc::clone(&self.service);
            let answered = answer(request.clone(), &self.app, service, &caller, Tier::Batch).await;
            match answered {
                Ok(answered) => {
                    let head = Head {
                        id: &id,
                        custom_id: &custom_id,
                    };
                    return Met {
                        written: head.answer(&request_id, &answered.json),
                        answered: Some(AnsweredLine {
                            tokens: answered.tokens,
                            charge: meter.and_then(|meter| meter.take_charge()),
                        }),
                        end,
                    };
                }
                Err(error) if error.is_passing() => tokio::time::sleep(PAUSE).await,
                Err(error) => return Met::refused(&id, &custom_id, &request_id, &error, end),
            }
        }
    }
}

#[derive(Serialize)]
struct Head<'a> {
    id: &'a str,
    custom_id: &'a str,
}

impl Head<'_> {
    /// The line of an answer whose body is written already.
    fn answer(&self, request_id: &str, body: &[u8]) -> Vec<u8> {
        let head = json!(self).to_string();
        let request_id = json!(request_id);
        // The head without its last brace.
        let mut line = Vec::with_capacity(head.len() + body.len() + 128);
        line.extend_from_slice(head.trim_end_matches('}').as_bytes());
        line.extend_from_slice(
            format!(r#","response":{{"status_code":200,"request_id":{request_id},"body":"#)
                .as_bytes(),
        );
        line.extend_from_slice(body);
        line.extend_from_slice(b"},\"error\":null}\n");
        line
    }
}

impl Met {
    fn error(line: &Value, end: u64) -> Self {
        let mut written = line.to_string().into_bytes();
        written.push(b'\n');
        Self {
            written,
            answered: None,
            end,
        }
    }

    fn refused(id: &str, custom_id: &str, request_id: &str, error: &ApiError, end: u64) -> Self {
        let (status_code, body) = error.openai(request_id);
        let response = json!({"status_code": status_code, "request_id": request_id, "body": body});
        let line = json!({"id": id, "custom_id": custom_id, "response": response, "error": null});
        Self::error(&line, end)
    }

    /// A line that is not run any more.
    pub(super) fn left_out(
        line: &[u8],
        batch_id: &str,
        number: i64,
        why: LeftOut,
        end: u64,
    ) -> Self {
        let (code, message) = match why {
            LeftOut::Expired => (
                "batch_expired",
                "This request could not be executed before the completion window expired.",
            ),
            LeftOut::Cancelled => (
                "batch_cancelled",
                "The batch was cancelled before this request was executed.",
            ),
        };
        let id = format!(
            "batch_req_{}-{number}",
            batch_id.trim_start_matches("batch_")
        );
        let line = json!({
            "id": id, "custom_id": custom_id(line), "response": null,
            "error": {"code": code, "message": message},
        });
        Self::error(&line, end)
    }
}

/// Why lines are not run any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LeftOut {
    /// The batch's time is over.
    Expired,
    /// Its owner does not want it.
    Cancelled,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_output_is_json_whatever_its_id() {
        let head = Head {
            id: "batch_req_x-1",
            custom_id: "}\"\n}",
        };
        let line = head.answer("batch_x-1", br#"{"object":"list"}"#);
        let read: Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(read["custom_id"], "}\"\n}");
        assert_eq!(read["response"]["body"]["object"], "list");
        assert_eq!(read["error"], Value::Null);
        assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
    }
}
