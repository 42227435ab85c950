//! Changes of a pod as JSON. Existing volumes, mounts and variables stay as they are.

use crate::admission::injection::mode::INJECTION_LABEL;
use serde_json::{Value, json};

/// Name of the volume that containers get.
pub(super) const VOLUME: &str = "durward";
/// Where it is mounted in every container.
pub(super) const MOUNT_PATH: &str = "/var/run/durward";

/// A pod can't get what it asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct InjectionRefusal {
    pub(super) field: String,
    pub(super) message: String,
}

impl InjectionRefusal {
    pub(super) fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into() }
    }
}

/// Adds a volume, unless the pod has a suitable one of the same name.
pub(super) fn add_volume(
    spec: &mut Value,
    volume: Value,
    is_suitable: impl Fn(&Value) -> bool,
) -> Result<(), InjectionRefusal> {
    let volumes = list(spec, "spec", "volumes")?;
    match volumes.iter().enumerate().find(|(_, other)| other.get("name") == volume.get("name")) {
        None => {
            volumes.push(volume);
            Ok(())
        }
        Some((_, other)) if is_suitable(other) => Ok(()),
        Some((i, _)) => Err(InjectionRefusal::new(
            format!("spec.volumes[{i}]"),
            format!(
                "durward brings the pod's identity in a volume of this name; rename yours, or set the label \
                 {INJECTION_LABEL} to `none`"
            ),
        )),
    }
}

/// Adds the mount and the variables to every container.
pub(super) fn equip_all(spec: &mut Value, variables: &[(&str, String)]) -> Result<(), InjectionRefusal> {
    for_each_container(spec, |container, field| equip(container, field, variables))
}

/// Adds the variables to every container except the one with this name.
pub(super) fn set_variables(
    spec: &mut Value,
    except: &str,
    variables: &[(&str, String)],
) -> Result<(), InjectionRefusal> {
    for_each_container(spec, |container, field| {
        if container["name"] == except { Ok(()) } else { add_variables(container, field, variables) }
    })
}

fn for_each_container(
    spec: &mut Value,
    mut change: impl FnMut(&mut Value, &str) -> Result<(), InjectionRefusal>,
) -> Result<(), InjectionRefusal> {
    for kind in ["initContainers", "containers"] {
        if spec.get(kind).is_none_or(Value::is_null) {
            continue;
        }
        for (i, container) in list(spec, "spec", kind)?.iter_mut().enumerate() {
            change(container, &format!("spec.{kind}[{i}]"))?;
        }
    }
    Ok(())
}

fn equip(container: &mut Value, field: &str, variables: &[(&str, String)]) -> Result<(), InjectionRefusal> {
    let mounts = list(container, field, "volumeMounts")?;
    let path = |mount: &Value| mount["mountPath"].as_str().map(|path| path.trim_end_matches('/').to_owned());
    match mounts.iter().enumerate().find(|(_, mount)| path(mount).as_deref() == Some(MOUNT_PATH)) {
        None => mounts.push(json!({"name": VOLUME, "mountPath": MOUNT_PATH, "readOnly": true})),
        Some((_, mount)) if mount["name"] == VOLUME => {}
        Some((i, _)) => {
            return Err(InjectionRefusal::new(
                format!("{field}.volumeMounts[{i}]"),
                format!(
                    "durward mounts the pod's identity at {MOUNT_PATH}; mount yours elsewhere, or set the label \
                     {INJECTION_LABEL} to `none`"
                ),
            ));
        }
    }
    add_variables(container, field, variables)
}

fn add_variables(container: &mut Value, field: &str, variables: &[(&str, String)]) -> Result<(), InjectionRefusal> {
    let environment = list(container, field, "env")?;
    for (name, value) in variables {
        // a variable that the pod's author has set takes precedence
        if !environment.iter().any(|variable| variable["name"] == *name) {
            environment.push(json!({"name": name, "value": value}));
        }
    }
    Ok(())
}

/// A list in an object, which is created if it is missing.
pub(super) fn list<'v>(object: &'v mut Value, field: &str, name: &str) -> Result<&'v mut Vec<Value>, InjectionRefusal> {
    let wrong_type = || InjectionRefusal::new(format!("{field}.{name}"), "must be a list");
    let slot = object.as_object_mut().ok_or_else(wrong_type)?.entry(name).or_insert(Value::Null);
    if slot.is_null() {
        *slot = json!([]);
    }
    slot.as_array_mut().ok_or_else(wrong_type)
}
