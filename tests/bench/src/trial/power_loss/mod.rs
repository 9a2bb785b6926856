//! What is left when the power goes? One run is recorded below the server, and cut in many places; each cut is a disk that lost and tore
//! what was not synced, and has to have all that a client was told by then.

mod check;
mod ledger;

use std::num::{NonZeroU64, NonZeroUsize};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use dacapo_disk::trace::{self, Record};
use dacapo_disk::{Dice, Disk, Layer, State};
use futures::future::try_join_all;

use self::check::Found;
use self::ledger::{Ledger, Story};
use super::{Place, mib, until};
use crate::server::Server;
use crate::tell;

/// Where a state is left that does not have what it should, in the folder of the trial's data.
const EVIDENCE: &str = "dacapo-power-loss";

/// Record one run, then lose the power in many places of it, and look for all that was acknowledged
#[derive(Debug, clap::Args)]
pub(super) struct PowerLoss {
    /// In how many states the disk is looked at
    #[arg(long, value_name = "N", default_value = "2000")]
    states: NonZeroU64,

    /// How many of them `dacapo verify` replays too; all if nothing is said
    #[arg(long, value_name = "N")]
    replays: Option<u64>,

    /// How many instances are started in each of the server's four lives
    #[arg(long, value_name = "N", default_value = "160")]
    instances: NonZeroU64,

    /// How many clients start them, each with a connection of its own
    #[arg(long, value_name = "C", default_value = "8")]
    clients: NonZeroUsize,

    /// Which states are chosen
    #[arg(long, value_name = "N", default_value = "1")]
    seed: u64,
}

/// How a life of the server ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// In order, so that the log is moved into the file.
    Stopped,
    /// In the middle of its work.
    Killed,
    /// In order, after a sync has failed in the middle of its work.
    Failed,
}

/// The one after the failed sync shows whether what is written then survives too.
const LIVES: [End; 4] = [End::Stopped, End::Killed, End::Failed, End::Killed];

/// What the recorded run was.
struct Recorded {
    /// The disk when it began.
    before: Disk,
    trace: Vec<u8>,
    ledger: Ledger,
}

impl PowerLoss {
    pub(super) async fn run(&self, place: &Place<'_>) -> Result<String> {
        let mut server = place.start()?;
        server.upload(&place.module).await?;
        server.stop()?;
        let recorded = self.record(place).await?;
        self.lose_power(place, &recorded)
    }

    /// Four lives of a server on a layer that records them.
    async fn record(&self, place: &Place<'_>) -> Result<Recorded> {
        let data = place.folder.join("data");
        let layer = Layer::new(&data, place.folder)?;
        let before = Disk::of(&data)?;
        let ledger = Ledger::default();
        for (life, end) in LIVES.into_iter().enumerate() {
            let mut server = Server::start_on(place.program, place.folder, |command| layer.put_under(command))?;
            let (begun, told) = (Instant::now(), ledger.told());
            let client = |first: u64| {
                let (ledger, layer, address) = (&ledger, &layer, server.address);
                let numbers = (first..self.instances.get()).step_by(self.clients.get());
                let stories = numbers.map(move |number| Story::of(life, number));
                async move { ledger.play(layer, address, stories, end == End::Stopped).await }
            };
            let clients = try_join_all((0..self.clients.get() as u64).map(client));
            let uploads = ledger.upload(&layer, server.address, &place.module, life, end == End::Stopped);
            // Half of what the first life has acknowledged is the middle of any.
            let middle = told + ledger.told_in_first_life() / 2;
            let interrupt = async {
                match end {
                    End::Stopped => (),
                    End::Killed => {
                        until("the middle of a life", || Ok(ledger.told() >= middle)).await?;
                        layer.set_kill(true)?;
                    }
                    End::Failed => {
                        until("the middle of a life", || Ok(ledger.told() >= middle)).await?;
                        layer.fail_syncs(1)?;
                        until("a sync that fails", || Ok(layer.syncs_to_fail()? == 0)).await?;
                    }
                }
                Ok(())
            };
            futures::try_join!(clients, uploads, interrupt).with_context(|| format!("life {}; {}", life + 1, server.log()))?;
            match end {
                End::Stopped | End::Failed => server.stop()?,
                End::Killed => {
                    let status = server.ended()?;
                    ensure!(!status.success(), "the server was killed and ended with {status}; {}", server.log());
                    layer.set_kill(false)?;
                }
            }
            if life == 0 {
                ledger.end_first_life();
            }
            let told = ledger.told() - told;
            tell(format_args!("life {}, {end:?}: {told} acknowledgements in {:.1} s", life + 1, begun.elapsed().as_secs_f64()));
        }
        let trace = layer.trace()?;
        let mut after = before.clone();
        for (at, record) in trace::records(&trace) {
            after.take(at, record)?;
        }
        after.check(&data).context("compare the trace with the disk")?;
        Ok(Recorded { before, trace, ledger })
    }

    /// Makes the states, one by one, and looks what they have.
    fn lose_power(&self, place: &Place<'_>, recorded: &Recorded) -> Result<String> {
        let begun = Instant::now();
        let Recorded { before, trace, ledger } = recorded;
        let records: Vec<_> = trace::records(trace).collect();
        let cuts = self.cuts(&records);
        let (mut disk, mut taken) = (before.clone(), 0);
        let (mut due, mut replayed) = (0, 0);
        for (number, cut) in (0..).zip(cuts) {
            for (at, record) in &records[taken..cut] {
                disk.take(*at, *record)?;
            }
            taken = cut;
            let at = cut.checked_sub(1).map_or(0, |last| records[last].0);
            let state = disk.crash(&mut Dice::new(self.seed ^ number << 32));
            let folder = place.folder.join("state");
            // Spread over all of them.
            let (states, replays) = (self.states.get(), self.replays.unwrap_or(u64::MAX).min(self.states.get()));
            let is_replayed = (number + 1) * replays / states > number * replays / states;
            // Compiled code is most of what there is, and only needed for that.
            state.make_only(&folder, |path| is_replayed || path.starts_with("dacapo.db"))?;
            let checked = if is_replayed { verify(place.program, &folder) } else { Ok(()) };
            match checked.and_then(|()| Found::in_store(&folder)).and_then(|found| ledger.check(at, &found, &place.module)) {
                Ok(checked) => due += checked,
                Err(error) => {
                    return Err(keep(&state, place.folder)?.context(format!(
                        "{error:#} — state {number} of seed {}, cut at {at} of {} bytes of trace",
                        self.seed,
                        trace.len()
                    )));
                }
            }
            State::remove(&folder)?;
            replayed += u64::from(is_replayed);
            if (number + 1).is_multiple_of(250) {
                tell(format_args!("{} states", number + 1));
            }
        }
        let synced = |what: bool| {
            let is_it = |record: &Record<'_>| match record {
                Record::Synced { worked, .. } | Record::FolderSynced { worked, .. } => *worked == what,
                _ => false,
            };
            records.iter().filter(|(_, record)| is_it(record)).count()
        };
        Ok(format!(
            "{} power losses, cut from {} things done to files in four lives of a server ({:.1} MiB, {} syncs that worked and {} that failed)\n\
             {} acknowledged; {due} of these were due in the states, and all were there\n\
             {replayed} states replayed by dacapo verify; {:.0} s for all",
            self.states,
            records.len(),
            mib(trace.len() as u64),
            synced(true),
            synced(false),
            ledger.summary(),
            begun.elapsed().as_secs_f64(),
        ))
    }

    /// Behind how many records the power is lost, ascending: half of the places anywhere, half of them before syncs, of which checkpoints
    /// have few.
    fn cuts(&self, records: &[(u64, Record<'_>)]) -> Vec<usize> {
        let is_sync = |(_, record): &(u64, Record<'_>)| matches!(record, Record::Synced { .. } | Record::FolderSynced { .. });
        let syncs: Vec<usize> = (0..records.len()).filter(|&index| is_sync(&records[index])).collect();
        let mut dice = Dice::new(self.seed);
        let mut below = |end: usize| usize::try_from(dice.below(end.max(1) as u64)).unwrap_or(0);
        let mut cut = |number: u64| {
            if number.is_multiple_of(2) || syncs.is_empty() {
                return below(records.len() + 1);
            }
            let sync = below(syncs.len());
            let from = sync.checked_sub(1).map_or(0, |before| syncs[before] + 1);
            from + below(syncs[sync] + 1 - from)
        };
        let mut cuts: Vec<usize> = (0..self.states.get()).map(&mut cut).collect();
        cuts.sort_unstable();
        cuts
    }
}

/// Has the program replay all that is in the folder.
fn verify(program: &Path, folder: &Path) -> Result<()> {
    let program = program.canonicalize().context("find the program")?;
    let output = Command::new(program).arg("verify").arg(folder).output().context("run dacapo verify")?;
    if !output.status.success() {
        let said = [output.stdout, output.stderr].concat();
        bail!("dacapo verify ended with {}: {}", output.status, String::from_utf8_lossy(&said).trim());
    }
    Ok(())
}

/// Leaves a state behind for who looks into it.
fn keep(state: &State, folder: &Path) -> Result<anyhow::Error> {
    let at = folder.with_file_name(EVIDENCE);
    if at.exists() {
        State::remove(&at)?;
    }
    state.make(&at)?;
    Ok(anyhow::anyhow!("the state is in {}", at.display()))
}
