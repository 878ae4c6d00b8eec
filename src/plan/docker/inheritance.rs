//! What a container has because its image says it, and will have otherwise with another image. The engine does
//! not say who wrote a value: one of somebody's own that is the same as the image's is taken for the image's.

use serde_json::Value;

use super::recreation::chosen;

/// Settings of a container that come from its image, apart from its environment.
const SETTINGS: &[&str] = &["Cmd", "Entrypoint", "User", "WorkingDir"];

/// What becomes of each setting that a container takes from its new image and that its old one had otherwise, in
/// words. All three are the `Config` of a container or an image.
pub fn changes(container: &Value, old_image: &Value, new_image: &Value) -> Vec<String> {
    let own = chosen(container, old_image);
    let mut changes: Vec<String> = variables(container)
        .filter(|variable| variables(old_image).any(|of_image| of_image == *variable))
        .filter(|variable| variables(new_image).all(|of_image| of_image != *variable))
        .map(|variable| {
            let name = name_of(variable);
            match variables(new_image).find(|of_image| name_of(of_image) == name) {
                Some(new) => format!("{new} (was {})", value_of(variable)),
                None => format!("no {name} (was {})", value_of(variable)),
            }
        })
        .collect();
    let is_nothing = |value: &Value| value.is_null() || *value == "";
    let differs = |setting: &&&str| {
        let (old, new) = (&old_image[**setting], &new_image[**setting]);
        old != new && !(is_nothing(old) && is_nothing(new))
    };
    // What is empty the engine fills in as if it were not there.
    let inherited = SETTINGS.iter().filter(|setting| own.get(**setting).is_none_or(is_nothing));
    changes.extend(inherited.filter(differs).map(|setting| {
        let said = |image: &Value| match &image[*setting] {
            value if is_nothing(value) => "none".to_owned(),
            value => value.to_string(),
        };
        format!("{setting} {} (was {})", said(new_image), said(old_image))
    }));
    changes
}

fn variables(configuration: &Value) -> impl Iterator<Item = &str> {
    configuration["Env"].as_array().into_iter().flatten().filter_map(Value::as_str)
}

fn name_of(variable: &str) -> &str {
    variable.split('=').next().unwrap_or_default()
}

fn value_of(variable: &str) -> &str {
    variable.split_once('=').map_or("", |(_, value)| value)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A database looked for its data where the new image puts it, although somebody had written down the place.
    #[test]
    fn what_the_old_image_said_too_and_the_new_one_says_otherwise_is_told() {
        let old = json!({
            "Env": ["PATH=/bin", "PGDATA=/data", "LANG=C", "OLD=1"], "Cmd": ["serve"], "WorkingDir": "",
        });
        let new = json!({
            "Env": ["PATH=/bin", "PGDATA=/data/18", "LANG=D"], "Cmd": ["serve", "--new"], "User": "app",
        });
        let container = json!({
            "Env": ["PATH=/bin", "PGDATA=/data", "LANG=mine", "OLD=1", "OWN=1"], "Cmd": ["serve"], "User": "",
        });
        assert_eq!(
            changes(&container, &old, &new),
            [
                "PGDATA=/data/18 (was /data)",
                "no OLD (was 1)",
                "Cmd [\"serve\",\"--new\"] (was [\"serve\"])",
                "User \"app\" (was none)",
            ]
        );
        let mut own = container.clone();
        own["Cmd"] = json!(["mine"]);
        own["User"] = json!("me");
        own["Env"] = json!(["PGDATA=/mine"]);
        assert!(changes(&own, &old, &new).is_empty());
        assert!(changes(&container, &old, &old).is_empty());
    }
}
