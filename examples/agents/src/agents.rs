//! The agents as processes: started, listened to, killed, and started again.

use std::process::Stdio;

use anyhow::Context as _;
use sluicegate_example_broker::Broker;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;

use crate::moment::Moment;

/// Who an agent is, in whichever process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Agent {
    Planner,
    WorkerA,
    WorkerB,
}

/// What an agent said of itself.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) agent: Agent,
    pub(crate) moment: Moment,
    /// The lite topic that it is about.
    pub(crate) what: String,
}

/// Three processes. They die with this.
pub(crate) struct Agents {
    broker: Broker,
    running: Vec<(Agent, Child)>,
    said: mpsc::Sender<Event>,
}

impl Agent {
    const ALL: [Self; 3] = [Self::Planner, Self::WorkerA, Self::WorkerB];

    /// The subcommand of this program that it is.
    fn role(self) -> &'static str {
        match self {
            Self::Planner => "planner",
            Self::WorkerA | Self::WorkerB => "worker",
        }
    }
}

impl Agents {
    /// Starts all of them; what they say of themselves can be received.
    pub(crate) fn start(broker: &Broker) -> anyhow::Result<(Self, mpsc::Receiver<Event>)> {
        let (said, events) = mpsc::channel(16);
        let mut agents = Self { broker: broker.clone(), running: Vec::new(), said };
        Agent::ALL.into_iter().try_for_each(|agent| agents.start_one(agent))?;
        Ok((agents, events))
    }

    /// Ends an agent's process by SIGKILL, and starts another.
    pub(crate) async fn kill(&mut self, agent: Agent) -> anyhow::Result<()> {
        let found = self.running.iter().position(|(running, _)| *running == agent).context("an agent is running")?;
        self.running.swap_remove(found).1.kill().await?;
        self.start_one(agent)
    }

    fn start_one(&mut self, agent: Agent) -> anyhow::Result<()> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(agent.role()).envs(self.broker.variables()).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut process = command.kill_on_drop(true).spawn().context("cannot start an agent")?;
        let mut lines = BufReader::new(process.stdout.take().context("stdout is piped")?).lines();
        let said = self.said.clone();
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                let Some((moment, what)) = line.split_once(' ') else { continue };
                let Ok(moment) = moment.parse() else { continue };
                if said.send(Event { agent, moment, what: what.to_owned() }).await.is_err() {
                    return;
                }
            }
        });
        self.running.push((agent, process));
        Ok(())
    }
}
