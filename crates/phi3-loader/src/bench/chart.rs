//! Draws the results of a run as a bar chart.

use super::document::{BenchDocument, LimitKind, Spread};
use super::report::{rate, rate_unit};
use gguf_format::path_text;
use indicatif::DecimalBytes;
use plotters::coord::ranged1d::{Ranged, ValueFormatter};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::io;
use std::path::Path;
use textwrap::core::display_width;

/// The program that shows the chart chooses the font. Only for a monospaced one is the width of a text known: in the
/// common ones, a character is at most this wide, as a share of the font's size.
const ADVANCE: f64 = 0.61;
/// Font sizes, in pixels like all lengths here.
const TITLE: i32 = 16;
const LABEL: i32 = 13;
const SMALL: i32 = 11;

const MARGIN: i32 = 16;
const GAP: i32 = 8;
const BAR_HEIGHT: i32 = 16;
/// The length of the longest bar.
const BAR_WIDTH: i32 = 420;
/// The largest number of ticks.
const TICKS: usize = 8;

const LIMIT: RGBColor = RGBColor(0x9a, 0xa5, 0xb1);
const LOAD: RGBColor = RGBColor(0x1f, 0x77, 0xb4);
const PEER: RGBColor = RGBColor(0xd9, 0x8c, 0x3f);
const GREY: RGBColor = RGBColor(0x55, 0x5b, 0x61);
const GRID: RGBColor = RGBColor(0xe4, 0xe7, 0xea);

const LEGEND: [(RGBColor, &str); 3] =
    [(LIMIT, "limit of this machine"), (LOAD, "load by phi3-loader"), (PEER, "other loader")];

struct Bar {
    label: String,
    sentence: String,
    /// GB per second.
    rate: Spread,
    color: RGBColor,
}

/// Draws an SVG document with a bar for each limit, load and peer. Each bar has a whisker from minimum to
/// maximum, and a sentence that explains it.
pub(super) fn draw(file: &Path, document: &BenchDocument) -> io::Result<String> {
    let BenchDocument { machine, file: facts, settings, loads, .. } = document;
    let name = path_text(file.file_name().unwrap_or(file.as_os_str()).as_ref()).to_string();
    let bytes = DecimalBytes(facts.source_bytes);
    let title = format!("{name}: {bytes} to {}, storage {}", machine.device_name, settings.storage);
    let cpu = machine.cpu.as_deref().unwrap_or("unknown processor");
    let mut about = format!("{cpu}, {} cores; {}", machine.cores, machine.date);
    let several = loads.iter().map(|load| &load.device).find(|list| **list != machine.device);
    about.extend(several.map(|list| format!("; all devices: {list}")));
    let mut svg = String::new();
    draw_bars(&mut svg, &title, &about, &bars(document)).map_err(io::Error::other)?;
    Ok(svg)
}

fn bars(document: &BenchDocument) -> Vec<Bar> {
    let limits = document.limits.iter().filter_map(|limit| {
        let rate = limit.gb_per_s?;
        let (label, sentence) = (limit.name.clone(), limit.description.to_owned());
        let bar = Bar { label, sentence, rate, color: LIMIT };
        Some(match limit.kind {
            // The figure counts bytes read and bytes written, so the file rate is at most half of it.
            LimitKind::MemoryCopy | LimitKind::MemoryCopyToNew => Bar {
                label: format!("half of {}", bar.label),
                sentence: format!("{} A load counts it once.", bar.sentence),
                rate: rate.map(|rate| rate / 2.0),
                ..bar
            },
            _ => bar,
        })
    });
    let loads = document.loads.iter().filter(|load| load.reads()).map(|load| Bar {
        label: format!("{} load", load.name),
        sentence: load.description.to_owned(),
        rate: load.gb_per_s,
        color: LOAD,
    });
    let peers = document.peers.iter().filter_map(|peer| {
        let (label, sentence) = (peer.name.clone(), peer.note.clone());
        Some(Bar { label, sentence, rate: peer.gb_per_s?, color: PEER })
    });
    limits.chain(loads).chain(peers).collect()
}

/// Returns a length that a text of this size does not exceed.
fn length(text: &str, size: i32) -> i32 {
    (display_width(text) as f64 * ADVANCE * f64::from(size)).ceil() as i32
}

/// The elements of a drawing.
#[derive(Default)]
struct Picture<'a> {
    elements: Vec<DynElement<'static, SVGBackend<'a>, (i32, i32)>>,
    /// The right end of all texts.
    right: i32,
}

impl<'a> Picture<'a> {
    /// Adds a line of text. `y` is the middle of its height. Returns its right end.
    fn text(&mut self, text: &str, (size, color): (i32, RGBColor), x: i32, y: i32) -> i32 {
        // The backend divides sizes by 1.24.
        let font = (FontFamily::Monospace, f64::from(size) * 1.24).into_font().color(&color);
        let style = font.pos(Pos::new(HPos::Left, VPos::Center));
        self.elements.push(Text::new(text.to_owned(), (x, y), style).into_dyn());
        let end = x + length(text, size);
        self.right = self.right.max(end);
        end
    }

    /// Adds a text in lines of at most `width`. Returns the end of its height.
    fn paragraph(&mut self, text: &str, font: (i32, RGBColor), x: i32, y: i32, width: i32) -> i32 {
        let columns = f64::from(width) / ADVANCE / f64::from(font.0);
        let height = font.0 * 3 / 2;
        textwrap::wrap(text, columns as usize).iter().fold(y, |y, line| {
            self.text(line, font, x, y + height / 2);
            y + height
        })
    }

    fn rectangle(&mut self, from: (i32, i32), to: (i32, i32), color: RGBColor) {
        self.elements.push(Rectangle::new([from, to], color.filled()).into_dyn());
    }

    /// Adds a line with a stroke at each end.
    fn whisker(&mut self, from: i32, to: i32, y: i32) {
        for ends in
            [[(from, y), (to, y)], [(from, y - 3), (from, y + 3)], [(to, y - 3), (to, y + 3)]]
        {
            self.elements.push(PathElement::new(ends, BLACK).into_dyn());
        }
    }

    /// Adds the colours of these bars and the whisker, with their meanings. Returns the end of the height.
    fn legend(&mut self, bars: &[Bar], y: i32) -> i32 {
        let middle = y + BAR_HEIGHT / 2;
        let mut x = MARGIN;
        for (color, text) in LEGEND {
            if bars.iter().any(|bar| bar.color == color) {
                self.rectangle((x, y), (x + BAR_HEIGHT, y + BAR_HEIGHT), color);
                x = self.text(text, (LABEL, BLACK), x + BAR_HEIGHT + GAP, middle) + 2 * GAP;
            }
        }
        self.whisker(x, x + 2 * BAR_HEIGHT, middle);
        self.text("lowest to highest run", (LABEL, BLACK), x + 2 * BAR_HEIGHT + GAP, middle);
        y + BAR_HEIGHT
    }

    fn write(
        &self,
        svg: &'a mut String,
        bottom: i32,
    ) -> Result<(), DrawingAreaErrorKind<io::Error>> {
        let size = [self.right, bottom].map(|end| (end + MARGIN).unsigned_abs());
        let area = SVGBackend::with_string(svg, size.into()).into_drawing_area();
        area.fill(&WHITE)?;
        self.elements.iter().try_for_each(|element| area.draw(element))?;
        area.present()
    }
}

/// Draws titles, legend, bars and scale from top to bottom.
fn draw_bars(
    svg: &mut String,
    title: &str,
    about: &str,
    bars: &[Bar],
) -> Result<(), DrawingAreaErrorKind<io::Error>> {
    let most = bars.iter().map(|bar| bar.rate.max).fold(0.0, f64::max);
    let (unit, unit_gb) = rate_unit(most);
    let scale = RangedCoordf64::from(0.0..(most / unit_gb).max(1.0));
    let figures: Vec<_> = bars.iter().map(|bar| rate(bar.rate)).collect();
    let longest = |texts: &mut dyn Iterator<Item = &String>| {
        texts.map(|text| length(text, LABEL)).max().unwrap_or(0)
    };
    let left = MARGIN + longest(&mut bars.iter().map(|bar| &bar.label)) + GAP;
    let right = left + BAR_WIDTH + GAP + longest(&mut figures.iter());
    let x_of = |rate: f64| scale.map(&(rate / unit_gb), (left, left + BAR_WIDTH));

    let mut picture = Picture::default();
    let y = picture.paragraph(title, (TITLE, BLACK), MARGIN, MARGIN, right - MARGIN);
    let y = picture.paragraph(about, (SMALL, GREY), MARGIN, y, right - MARGIN);
    let top = picture.legend(bars, y + GAP) + 2 * GAP;
    let mut y = top;
    for (bar, figure) in bars.iter().zip(&figures) {
        let Spread { median, min, max } = bar.rate;
        let middle = y + BAR_HEIGHT / 2;
        picture.text(&bar.label, (LABEL, BLACK), MARGIN, middle);
        picture.rectangle((left, y), (x_of(median), y + BAR_HEIGHT), bar.color);
        picture.whisker(x_of(min), x_of(max), middle);
        picture.text(figure, (LABEL, BLACK), x_of(max) + GAP, middle);
        y = picture.paragraph(&bar.sentence, (SMALL, GREY), left, y + BAR_HEIGHT, right - left);
        y += GAP;
    }
    for tick in scale.key_points(TICKS) {
        let x = x_of(tick * unit_gb);
        picture.elements.insert(0, PathElement::new([(x, top), (x, y)], GRID).into_dyn());
        let text = RangedCoordf64::format(&tick);
        picture.text(&text, (SMALL, GREY), x - length(&text, SMALL) / 2, y + GAP);
    }
    let axis = format!("{unit} (bytes of the file); a bar is the median of all runs");
    let bottom = picture.paragraph(&axis, (SMALL, GREY), left, y + 2 * GAP, right - left);
    picture.write(svg, bottom)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the value of the first attribute of this name.
    fn number(tag: &str, name: &str) -> f64 {
        let (_, value) = tag.split_once(&format!("{name}=\"")).unwrap();
        value.split('"').next().unwrap().parse().unwrap()
    }

    /// Draws bars with these labels and rates. Checks that all texts and bars are inside the picture, and that no text
    /// begins before another one at its height ends.
    fn check(title: &str, label: &str, rates: &[f64]) {
        let bar = |&median: &f64| Bar {
            label: label.to_owned(),
            sentence: "Explains the row. ".repeat(9),
            rate: Spread { median, min: median / 2.0, max: median * 1.5 },
            color: LOAD,
        };
        let mut svg = String::new();
        draw_bars(&mut svg, title, title, &rates.iter().map(bar).collect::<Vec<_>>()).unwrap();
        let [width, height] = ["width", "height"].map(|name| number(&svg, name));
        let mut places = Vec::new();
        for tag in svg.split("<text ").skip(1) {
            let text = tag.split(['<', '>']).nth(1).unwrap().trim();
            let [x, y, size] = ["x", "y", "font-size"].map(|name| number(tag, name));
            let end = x + text.chars().count() as f64 * size * 0.602;
            assert!(0.0 <= x && end <= width, "{text}: {x} to {end} of {width}");
            assert!(size < y && y + size < height, "{text}: {y} of {height}");
            places.push((y, x, end));
        }
        places.sort_by(|a, b| a.partial_cmp(b).unwrap());
        for pair in places.windows(2) {
            let (y, _, end) = pair[0];
            assert!(y != pair[1].0 || end < pair[1].1, "{pair:?}");
        }
        for tag in svg.split("<rect ").skip(1) {
            assert!(number(tag, "x") + number(tag, "width") <= width, "{tag}");
        }
    }

    #[test]
    fn no_text_is_clipped_and_no_texts_overlap() {
        let long = "a name of many words ".repeat(20);
        let rates = [0.0, 4e-7, 3e-4, 0.07, 1.0, 54.5];
        for title in ["model.gguf", &long, &"x".repeat(300)] {
            for label in ["a", &long] {
                check(title, label, &rates);
                check(title, label, &[2000.0, 0.001]);
                check(title, label, &[0.0]);
                check(title, label, &[]);
            }
        }
    }
}
