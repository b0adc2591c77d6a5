//! The trait that a policy implements, and what it says of itself.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Descriptor, Entity, Feedback, Frame, Init, Plan};

/// A scheduling policy: state, and the function that decides.
///
/// ```
/// use std::time::Duration;
/// use sluicegate_plugin_sdk::{Answer, Descriptor, Frame, Init, Plan, Policy};
///
/// /// Serves while the consumers are less than nine tenths busy, else lets all but urgent work wait.
/// struct Calm;
///
/// impl Policy for Calm {
///     type Config = ();
///     type State = ();
///
///     fn describe() -> Descriptor {
///         Descriptor::new("calm", "1.0.0").reasons(["served", "consumers are busy"])
///     }
///
///     fn new(_: &Init, (): ()) -> Result<Self, String> {
///         Ok(Self)
///     }
///
///     fn decide(&mut self, frame: &Frame) -> Plan {
///         let busy = frame.group.load_ppm >= 900_000;
///         let answers = frame.lites.iter().map(|lite| match busy && lite.priority < 9 {
///             true => Answer::throttle(Duration::from_millis(100)).because(1),
///             false => Answer::serve(),
///         });
///         answers.collect()
///     }
/// }
///
/// let mut policy = Calm::new(&Init::default(), ()).unwrap();
/// assert_eq!(policy.decide(&Frame::default()), Plan::default());
/// ```
pub trait Policy: Sized {
    /// The configuration, parsed from JSON. Empty text gives the default. Use `#[serde(deny_unknown_fields)]`,
    /// so that a misspelt setting is refused and not ignored.
    type Config: DeserializeOwned + Default;

    /// What [`snapshot`](Self::snapshot) keeps; `()` for a policy without state.
    type State: Serialize + DeserializeOwned;

    /// Name, version, reasons; the same each time.
    fn describe() -> Descriptor;

    /// A new instance for one group in one shard.
    ///
    /// # Errors
    /// A configuration that makes no sense. The text is shown to the operator who activates the policy.
    fn new(init: &Init, config: Self::Config) -> Result<Self, String>;

    /// A tenant's name and labels, before the first frame or feedback that mentions the tenant; again when they change.
    fn learn(&mut self, _tenant: &Entity) {}

    /// The tenant need not be remembered: it is learnt again if it comes back.
    fn forget(&mut self, _tenant: u64) {}

    /// The labels of a lite topic that has some, before the first frame that mentions it. Asked for by
    /// [`Descriptor::learns_lites`].
    fn learn_lite(&mut self, _lite: &Entity) {}

    /// The lite topic need not be remembered: it is learnt again if it comes back.
    fn forget_lite(&mut self, _lite: u64) {}

    /// What became of a delivery.
    fn observe(&mut self, _feedback: &Feedback) {}

    /// Decides on the frame: one answer per lite topic, in the frame's order.
    fn decide(&mut self, frame: &Frame) -> Plan;

    /// The state to go on from after a fault or a change of version, at most 1 MiB once encoded. Asked only if
    /// [`Descriptor::state_schema`] was set.
    fn snapshot(&self) -> Option<Self::State> {
        None
    }

    /// Goes on from a state of the same schema, written by this or another version, maybe with another configuration.
    ///
    /// # Errors
    /// A state that does not fit. The instance then starts cold.
    fn restore(&mut self, _state: Self::State) -> Result<(), String> {
        Ok(())
    }
}

impl Descriptor {
    /// A policy without reasons, columns or state. State is carried over between policies of the same name.
    #[must_use]
    pub fn new(name: &str, version: &str) -> Self {
        Self { name: name.into(), version: version.into(), ..Self::default() }
    }

    /// Texts for [`Answer::because`](crate::Answer::because), shown to operators.
    #[must_use]
    pub fn reasons<const N: usize>(mut self, texts: [&str; N]) -> Self {
        self.reasons = texts.map(Into::into).into();
        self
    }

    /// Names of numeric message properties of a head that [`Frame::number`] is to know: at most 8.
    #[must_use]
    pub fn wants<const N: usize>(mut self, properties: [&str; N]) -> Self {
        self.wants = properties.map(Into::into).into();
        self
    }

    /// Lite topics with labels are learnt too, by [`Policy::learn_lite`].
    #[must_use]
    pub fn learns_lites(mut self) -> Self {
        self.learns = vec![Entity::LITE];
        self
    }

    /// JSON Schema of the configuration.
    #[must_use]
    pub fn config_schema(mut self, schema: &str) -> Self {
        self.config_schema = schema.into();
        self
    }

    /// The format of [`Policy::State`], from 1: raise it when the type changes.
    #[must_use]
    pub fn state_schema(mut self, schema: u32) -> Self {
        self.state_schema = schema;
        self
    }
}
