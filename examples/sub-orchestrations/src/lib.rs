//! A parent with many children: each shop reports its night as an orchestration of its own, with its own ID, history and tags. A
//! shop that fails leaves the others alone, and the parent learns why.
//!
//! The input is such as `{"date":"2026-11-22","shops":50}`.

use dacapo_guest::prelude::*;
use dacapo_guest::{ChildOptions, StartOptions};
use futures::future::join_all;
use futures::try_join;
use serde::{Deserialize, Serialize};

/// What to report on.
#[derive(Debug, Serialize, Deserialize)]
struct Night {
    /// As in `2026-11-22`.
    date: String,
    /// They are numbered from 1 on.
    shops: u32,
}

/// What the night came to.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Report {
    takings_cents: u64,
    /// What each shop that reported is short of.
    to_deliver: Vec<(u32, u32)>,
    /// Each shop that did not, with the kind and message of its failure.
    failed: Vec<(u32, String, String)>,
}

/// What one shop came to.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct ShopReport {
    takings_cents: u64,
    loaves_missing: u32,
}

/// Asks all shops at once and sums up.
#[orchestrator(name = "NightlyReport")]
async fn nightly_report(ctx: Context, night: Night) -> Result<Report> {
    let Night { date, shops } = night;
    // Started, not called: it belongs to nobody, and goes on when this orchestration has ended.
    let archive =
        ctx.start_with(file_report, (), StartOptions::new().instance_id(format!("{date}-archive")).tag("date", &date))?;

    let children = (1..=shops).map(|shop| {
        let child = ChildOptions::new().instance_id(format!("{date}-shop-{shop}"));
        ctx.call_with(report_shop, shop, child.tag("date", &date).tag("region", region(shop)))
    });
    let mut report = Report { takings_cents: 0, to_deliver: Vec::new(), failed: Vec::new() };
    for (shop, outcome) in (1..).zip(join_all(children).await) {
        match outcome {
            Ok(ShopReport { takings_cents, loaves_missing }) => {
                report.takings_cents += takings_cents;
                report.to_deliver.push((shop, loaves_missing));
            }
            Err(error) => report.failed.push((shop, error.kind().to_owned(), error.message().to_owned())),
        }
    }
    ctx.send_event(&archive, "report", &report)?;
    Ok(report)
}

/// The night of one shop.
#[orchestrator(name = "ReportShop")]
async fn report_shop(ctx: Context, shop: u32) -> Result<ShopReport> {
    let (takings_cents, loaves_missing) = try_join!(ctx.call(read_register, shop), ctx.call(count_shelves, shop))?;
    Ok(ShopReport { takings_cents, loaves_missing })
}

/// Waits for the report of its night, and files it.
#[orchestrator(name = "FileReport")]
async fn file_report(ctx: Context) -> Result<String> {
    let report: Report = ctx.event("report").await?;
    Ok(format!("{} cents, {} shops without a report", report.takings_cents, report.failed.len()))
}

/// What a shop has taken, in cents. Stands in for its till.
#[activity(name = "ReadRegister")]
async fn read_register(shop: u32) -> Result<u64> {
    if shop == 13 {
        return Err(Error::new("RegisterOpen", format!("nobody has closed the register of shop {shop}")).non_retriable());
    }
    Ok(u64::from(shop) * 100)
}

/// How many loaves a shop is short of. Stands in for somebody who counts.
#[activity(name = "CountShelves")]
async fn count_shelves(shop: u32) -> Result<u32> {
    Ok(shop % 7)
}

dacapo_guest::module!(nightly_report, report_shop, file_report, read_register, count_shelves);

fn region(shop: u32) -> &'static str {
    if shop <= 25 { "north" } else { "south" }
}

#[cfg(test)]
mod tests {
    use dacapo_guest::testing;

    use super::*;

    fn night(shops: u32) -> Night {
        Night { date: "2026-11-22".to_owned(), shops }
    }

    /// A mock in the place of the child: what a shop does is not the parent's business.
    #[test]
    fn a_shop_that_fails_is_named_beside_the_others() {
        let run = testing::scenario(nightly_report, night(3))
            .orchestrator(report_shop, |shop| match shop {
                2 => Err(Error::new("Flooded", "shop 2 is under water")),
                _ => Ok(ShopReport { takings_cents: 500, loaves_missing: shop }),
            })
            .run();
        let expected = Report {
            takings_cents: 1_000,
            to_deliver: vec![(1, 1), (3, 3)],
            failed: vec![(2, "Flooded".to_owned(), "shop 2 is under water".to_owned())],
        };
        assert_eq!(run.output().unwrap(), &expected);
        assert_eq!(run.started(), ["FileReport(null) as 2026-11-22-archive"]);
        assert_eq!(run.sent().len(), 1);
    }

    /// Children that run in the same scenario, down to the activities.
    #[test]
    fn every_shop_is_asked_for_both_its_figures() {
        let run = testing::scenario(nightly_report, night(50))
            .real(report_shop)
            .real(file_report)
            .real(read_register)
            .real(count_shelves)
            .run();
        let report = run.output().unwrap();
        assert_eq!(report.takings_cents, 100 * (50 * 51 / 2 - 13));
        assert_eq!(report.failed, [(13, "RegisterOpen".to_owned(), "nobody has closed the register of shop 13".to_owned())]);
        assert_eq!(run.calls().len(), 50 + 2 * 50);
    }
}
