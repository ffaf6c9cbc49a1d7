//! What the licence of weights allows, and the operator's word where it is not enough.

use serde::{Deserialize, Serialize};

use super::Entry;
use crate::metering::Price;

/// The licence of a model's weights.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct License {
    /// SPDX identifier where there is one, such as `CC-BY-NC-4.0`.
    pub id: String,
    /// Its full name.
    pub name: String,
    /// Its text.
    pub url: String,
    /// Whether it allows commercial use.
    pub commercial_use: bool,
    /// What that means, in a sentence or two.
    pub summary: String,
}

/// Why a model may not be charged for.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum LicenseError {
    /// The licence forbids it, and the operator has not said that there is another agreement.
    #[error(
        "`{model}` has a price, and its licence `{license}` does not allow commercial use of the weights"
    )]
    NotAcknowledged {
        /// The model.
        model: String,
        /// The licence.
        license: String,
    },
    /// The operator acknowledged another licence than the model has.
    #[error("`acknowledge_license` is `{found}`, and the licence of `{model}` is `{license}`")]
    Other {
        /// The model.
        model: String,
        /// The licence.
        license: String,
        /// What was acknowledged.
        found: String,
    },
}

impl LicenseError {
    /// What to do next.
    pub fn hint(&self) -> String {
        let (Self::NotAcknowledged { license, .. } | Self::Other { license, .. }) = self;
        format!(
            "take the price out of the catalogue, or, if the owner of the weights allows you to charge \
             for them, write acknowledge_license = \"{license}\""
        )
    }
}

impl Entry {
    /// The price at which the model's use may be charged for, `None` where it has none. Prices are
    /// active through this function only.
    ///
    /// # Errors
    /// [`LicenseError`] for a price on weights whose licence does not allow commercial use, unless the
    /// operator acknowledges that very licence and so takes it on themselves to have the owner's leave.
    pub fn active_price(&self, acknowledged: Option<&str>) -> Result<Option<Price>, LicenseError> {
        // What costs nothing is not charged for.
        let Some(price) = self.price.filter(|price| *price != Price::default()) else {
            return Ok(None);
        };
        let Some(license) = self.license.as_ref().filter(|it| !it.commercial_use) else {
            return Ok(Some(price));
        };
        let (model, license) = (self.id.clone(), license.id.clone());
        match acknowledged {
            Some(found) if found == license => {
                // The record of it: the operator's word, at every start.
                tracing::info!(model, license, "the operator acknowledges the licence");
                Ok(Some(price))
            }
            Some(found) => Err(LicenseError::Other {
                model,
                license,
                found: found.to_owned(),
            }),
            None => Err(LicenseError::NotAcknowledged { model, license }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Catalogue;
    use super::*;

    const PRICE: Price = Price {
        realtime_micro_usd_per_million: 20_000,
        batch_micro_usd_per_million: 10_000,
    };

    fn active(id: &str, price: Option<Price>, word: Option<&str>) -> Result<Option<Price>, String> {
        let mut entry = Catalogue::built_in().entry(id).unwrap().clone();
        entry.price = price;
        entry.active_price(word).map_err(|error| error.to_string())
    }

    #[test]
    fn a_price_on_non_commercial_weights_needs_the_operators_word_on_that_licence() {
        let jina = "jinaai/jina-embeddings-v3";
        assert!(active(jina, Some(PRICE), None).is_err());
        assert!(active(jina, Some(PRICE), Some("MIT")).is_err());
        assert_eq!(
            active(jina, Some(PRICE), Some("CC-BY-NC-4.0")),
            Ok(Some(PRICE))
        );
        assert_eq!(active(jina, None, None), Ok(None));
        assert_eq!(active("quintet/mini", Some(PRICE), None), Ok(Some(PRICE)));
    }
}
