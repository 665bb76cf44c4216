//! The variables as envy reads them: text or nothing. What they mean is decided in a second pass, because envy stops at
//! the first mistake.

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::environment::Environment;
use super::mistakes::{Mistakes, Noted};

/// What every source has under its own prefix.
#[derive(Default, Deserialize)]
pub(super) struct Shared {
    pub(super) sync_loop: Option<String>,
    pub(super) sync_interval: Option<String>,
    pub(super) sync_lookback: Option<String>,
    pub(super) retry_budget: Option<String>,
    pub(super) shutdown_grace: Option<String>,
    pub(super) lease_ttl: Option<String>,
    pub(super) storage_backend: Option<String>,
    pub(super) local_storage_path: Option<String>,
    pub(super) rejected_path: Option<String>,
    pub(super) http_timeout: Option<String>,
    pub(super) http_listen: Option<String>,
    pub(super) log_format: Option<String>,
    pub(super) log_level: Option<String>,
}

/// What the Sectigo audit API alone has.
#[derive(Default, Deserialize)]
pub(super) struct Sectigo {
    pub(super) api_url: Option<String>,
    pub(super) api_client_id: Option<String>,
    pub(super) api_client_secret: Option<String>,
    pub(super) api_client_secret_file: Option<String>,
    pub(super) api_token_url: Option<String>,
    pub(super) sync_delay: Option<String>,
    pub(super) sync_window: Option<String>,
    pub(super) sync_overlap: Option<String>,
}

/// What the state in Redis needs.
#[cfg(feature = "redis")]
#[derive(Default, Deserialize)]
pub(super) struct Redis {
    pub(super) address: Option<String>,
    pub(super) address_file: Option<String>,
    pub(super) password: Option<String>,
    pub(super) password_file: Option<String>,
    pub(super) username: Option<String>,
    pub(super) db: Option<String>,
    pub(super) tls: Option<String>,
    pub(super) key: Option<String>,
}

/// What the state in S3 needs, beside what AWS's own library reads.
#[cfg(feature = "s3")]
#[derive(Default, Deserialize)]
pub(super) struct S3 {
    pub(super) bucket: Option<String>,
    pub(super) prefix: Option<String>,
    pub(super) force_path_style: Option<String>,
    pub(super) unconditional: Option<String>,
    pub(super) sse: Option<String>,
    pub(super) kms_key_id: Option<String>,
}

/// What the state in Google Cloud Storage needs, beside what Google's own library reads.
#[cfg(feature = "gcs")]
#[derive(Default, Deserialize)]
pub(super) struct Gcs {
    pub(super) bucket: Option<String>,
    pub(super) prefix: Option<String>,
}

/// Datadog's own names.
#[derive(Default, Deserialize)]
pub(super) struct Datadog {
    pub(super) api_key: Option<String>,
    pub(super) api_key_file: Option<String>,
    pub(super) site: Option<String>,
    pub(super) tags: Option<String>,
    pub(super) env: Option<String>,
    pub(super) hostname: Option<String>,
    pub(super) service: Option<String>,
    pub(super) source: Option<String>,
    pub(super) logs_config_logs_dd_url: Option<String>,
    pub(super) logs_config_logs_no_ssl: Option<String>,
    pub(super) logs_config_compression_kind: Option<String>,
}

/// Reads the variables under `prefix`.
pub(super) fn read<T: DeserializeOwned>(
    prefix: &str,
    environment: &Environment,
    mistakes: &mut Mistakes,
) -> Result<T, Noted> {
    // The cause is not shown: it could quote a value.
    envy::prefixed(prefix)
        .from_iter(environment.pairs())
        .map_err(|_| mistakes.refuse_name(prefix, "the variables with this prefix cannot be read"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde::de::value::Error;
    use serde::de::{Deserializer, Error as _, Visitor};
    use serde::forward_to_deserialize_any;

    use super::super::DATADOG_PREFIX;
    use super::super::sectigo::PREFIX;
    use super::super::variables::VARIABLES;
    use super::*;

    /// Catches the names of a struct's fields, which serde's derive hands to the deserializer.
    struct Fields<'a>(&'a mut &'static [&'static str]);

    impl<'de> Deserializer<'de> for Fields<'_> {
        type Error = Error;

        fn deserialize_struct<V: Visitor<'de>>(
            self,
            _: &'static str,
            fields: &'static [&'static str],
            _: V,
        ) -> Result<V::Value, Error> {
            *self.0 = fields;
            Err(Error::custom("seen"))
        }

        fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
            Err(Error::custom("not a struct"))
        }

        forward_to_deserialize_any! {
            bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct
            newtype_struct seq tuple tuple_struct map enum identifier ignored_any
        }
    }

    fn names<T: DeserializeOwned>(prefix: &str) -> Vec<String> {
        let mut fields: &[&str] = &[];
        assert!(T::deserialize(Fields(&mut fields)).is_err());
        fields.iter().map(|field| format!("{prefix}{}", field.to_uppercase())).collect()
    }

    #[cfg(all(feature = "redis", feature = "s3", feature = "gcs"))]
    #[test]
    fn each_row_of_the_table_is_read_by_one_field_and_each_field_has_its_row() {
        let fields = [
            names::<Shared>(PREFIX),
            names::<Sectigo>(PREFIX),
            names::<Redis>("SECTIGO_AUDIT_REDIS_"),
            names::<S3>("SECTIGO_AUDIT_S3_"),
            names::<Gcs>("SECTIGO_AUDIT_GCS_"),
            names::<Datadog>(DATADOG_PREFIX),
            // Of no prefix of ours, and read by itself.
            vec!["STORAGE_EMULATOR_HOST".to_owned()],
        ]
        .concat();
        let unique: BTreeSet<_> = fields.iter().map(String::as_str).collect();
        assert_eq!(unique.len(), fields.len(), "a name is read twice");
        assert_eq!(unique, VARIABLES.iter().map(|row| row.name).collect());
    }

    #[test]
    fn each_field_gets_the_value_of_its_own_variable() {
        let pairs = VARIABLES.iter().map(|row| (row.name.into(), format!("value of {}", row.name).into()));
        let mut mistakes = Mistakes::default();
        let environment = Environment::gather(pairs, |_| true, &mut mistakes);
        let shared: Shared = read(PREFIX, &environment, &mut mistakes).unwrap_or_default();
        assert_eq!(shared.log_level.as_deref(), Some("value of SECTIGO_AUDIT_LOG_LEVEL"));
        let datadog: Datadog = read(DATADOG_PREFIX, &environment, &mut mistakes).unwrap_or_default();
        assert_eq!(datadog.site.as_deref(), Some("value of DD_SITE"));
    }
}
