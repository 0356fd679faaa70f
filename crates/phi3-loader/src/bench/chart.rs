//! Draws the results of a run as a bar chart.

use super::document::{BenchDocument, LimitKind, Spread};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

const WIDTH: u32 = 960;
const BAR_HEIGHT: u32 = 30;
const MARGIN_HEIGHT: u32 = 110;
const LABEL_WIDTH: u32 = 230;
const FONT: &str = "sans-serif";

const LIMIT: RGBColor = RGBColor(0x9a, 0xa5, 0xb1);
const LOAD: RGBColor = RGBColor(0x1f, 0x77, 0xb4);
const PEER: RGBColor = RGBColor(0xd9, 0x8c, 0x3f);

struct Bar {
    label: String,
    rate: Spread,
    color: RGBColor,
}

/// Draws an SVG document with a bar for each limit, load and peer. Each bar has a whisker from minimum to
/// maximum.
pub(super) fn draw(document: &BenchDocument) -> Result<String, String> {
    let bars = bars(document);
    // The y axis points up, and the first bar is at the top.
    let rows = i32::try_from(bars.len()).map_err(|error| error.to_string())?;
    let most = bars.iter().map(|bar| bar.rate.max).fold(1.0, f64::max);
    let height = MARGIN_HEIGHT + BAR_HEIGHT * bars.len().max(1) as u32;
    let mut svg = String::new();
    draw_bars(&mut svg, (WIDTH, height), &title(document), &bars, rows, most * 1.15)
        .map_err(|error| error.to_string())?;
    Ok(svg)
}

fn draw_bars(
    svg: &mut String,
    size: (u32, u32),
    title: &str,
    bars: &[Bar],
    rows: i32,
    right: f64,
) -> Result<(), DrawingAreaErrorKind<std::io::Error>> {
    let area = SVGBackend::with_string(svg, size).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(title, (FONT, 20))
        .margin(12)
        .x_label_area_size(42)
        .y_label_area_size(LABEL_WIDTH)
        .build_cartesian_2d(0.0..right, (0..rows - 1).into_segmented())?;
    let label = |position: &SegmentValue<i32>| match position {
        SegmentValue::CenterOf(row) => usize::try_from(rows - 1 - row)
            .ok()
            .and_then(|index| bars.get(index))
            .map_or_else(String::new, |bar| bar.label.clone()),
        _ => String::new(),
    };
    chart
        .configure_mesh()
        .disable_y_mesh()
        .x_max_light_lines(0)
        .label_style((FONT, 16))
        .x_desc("GB/s of the file (1e9 bytes); whiskers from minimum to maximum")
        .y_labels(bars.len())
        .y_label_formatter(&label)
        .draw()?;
    let figure_style = (FONT, 16).into_text_style(&area).pos(Pos::new(HPos::Left, VPos::Center));
    for (row, bar) in (0..rows).rev().zip(bars) {
        let Spread { median, min, max } = bar.rate;
        let ends = [(0.0, SegmentValue::Exact(row)), (median, SegmentValue::Exact(row + 1))];
        let mut rectangle = Rectangle::new(ends, bar.color.filled());
        rectangle.set_margin(5, 5, 0, 0);
        chart.draw_series([rectangle])?;
        let middle = |rate| (rate, SegmentValue::CenterOf(row));
        chart.draw_series([PathElement::new(vec![middle(min), middle(max)], BLACK)])?;
        let figure = format!("{median:.2}");
        let beside = middle(max + right / 200.0);
        chart.draw_series([Text::new(figure, beside, figure_style.clone())])?;
    }
    area.present()
}

fn title(document: &BenchDocument) -> String {
    let BenchDocument { machine, file, settings, .. } = document;
    let gb = file.source_bytes as f64 / 1e9;
    format!("{gb:.2} GB to {}, {}, {}", machine.device_name, settings.storage, machine.date)
}

fn bars(document: &BenchDocument) -> Vec<Bar> {
    let limits = document.limits.iter().filter_map(|limit| {
        let rate = limit.gb_per_s?;
        Some(match limit.kind {
            // The figure counts bytes read and bytes written, so the file rate is at most half of it.
            LimitKind::MemoryCopy | LimitKind::MemoryCopyToNew => Bar {
                label: format!("{}, halved", limit.name),
                rate: rate.map(|rate| rate / 2.0),
                color: LIMIT,
            },
            _ => Bar { label: limit.name.clone(), rate, color: LIMIT },
        })
    });
    let loads = document.loads.iter().map(|load| Bar {
        label: format!("{} load", load.name),
        rate: load.gb_per_s,
        color: LOAD,
    });
    let peers = document.peers.iter().filter_map(|peer| {
        Some(Bar { label: format!("{}, warm", peer.name), rate: peer.gb_per_s?, color: PEER })
    });
    limits.chain(loads).chain(peers).collect()
}
