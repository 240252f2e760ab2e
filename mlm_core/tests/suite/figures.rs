//! Figures: what they show, that text in them is escaped, how they are saved.

use mlm_core::candle_core::{DType, Device, Tensor};
use mlm_core::{
    Batch, Check, Coverage, EpochRecord, Figure, FilledMask, History, PowerLaw, Prediction, Recovery, Treatment,
    WordRecovery, markup, plot,
};

use crate::{assert_says, message, pieces};

fn run(name: &str, losses: &[f64]) -> History {
    let mut history = History::new(name);
    for (nth, &loss) in losses.iter().enumerate() {
        let record = match nth {
            0 => EpochRecord::before_training(loss + 0.1),
            _ => EpochRecord::new(nth, loss, loss + 0.1),
        };
        history.push(record).unwrap();
    }
    history
}

fn svg(figure: &Figure) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("figure.svg");
    figure.save(&path).unwrap();
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn loss_curves_of_several_runs_share_their_axes() {
    let (first, second) = (run("lr 1e-3", &[4.0, 2.0, 1.0]), run("a < b & \"c\"", &[4.0, 3.0, 2.5, 2.0]));
    let drawing = svg(&plot::loss_curve(&[&first, &second]).unwrap());
    assert_says(
        &drawing,
        &["epoch", "loss (nats per masked token)", "lr 1e-3: training", "lr 1e-3: validation", "a &lt; b &amp;"],
    );
    assert!(!drawing.contains("a < b"));
    let alone = svg(&plot::loss_curve(&[&first]).unwrap());
    assert!(alone.contains("\ntraining\n") && !alone.contains("lr 1e-3"), "one run needs no name");
    assert_says(&message(plot::loss_curve(&[])), &["runs"]);
    assert_says(&message(plot::loss_curve(&[&History::new("empty")])), &["runs"]);
}

#[test]
fn a_mean_over_an_epoch_stands_in_its_middle() {
    let drawing = svg(&plot::loss_curve(&[&run("run", &[4.0, 2.0, 1.0])]).unwrap());
    let at: Vec<f64> =
        (drawing.split("<circle cx=\"").skip(1)).map(|rest| rest.split('"').next().unwrap().parse().unwrap()).collect();
    // Of training the mean of what the batches of an epoch lost; of validation what is lost before the first and after each.
    let (training, validation) = at.split_at(2);
    let epoch = (validation[2] - validation[0]) / 2.0;
    for (nth, at) in training.iter().enumerate() {
        assert!((at - validation[nth] - epoch / 2.0).abs() <= 1.0, "{training:?} between {validation:?}");
    }
}

#[test]
fn names_of_lines_do_not_lie_upon_each_other() {
    let linear = plot::Scale::Linear;
    let names: Vec<String> = (0..6).map(|nth| format!("name {nth}")).collect();
    // All end in one place: at the bottom, at the top.
    for end in [0.0, 1.0] {
        let curves: Vec<_> = names.iter().map(|name| (name, vec![(0.0, 0.0), (0.5, 1.0), (1.0, end)])).collect();
        let drawing = svg(&plot::curves(&curves, ("x", linear), ("y", linear)).unwrap());
        let height = |name: &String| -> f64 {
            let before = &drawing[..drawing.find(&format!("\n{name}\n")).unwrap()];
            before.rsplit(" y=\"").next().unwrap().split('"').next().unwrap().parse().unwrap()
        };
        let mut heights: Vec<f64> = names.iter().map(height).collect();
        heights.sort_by(f64::total_cmp);
        assert!(heights.windows(2).all(|pair| pair[1] - pair[0] >= 16.0), "{heights:?}");
        assert!(heights[0] > 8.0 && heights[5] < 392.0, "{heights:?} of a card 400 pixels high");
    }
}

#[test]
fn a_figure_of_many_runs_has_room_for_their_names() {
    let runs: Vec<History> = (0..30).map(|nth| run(&format!("number {nth:02}"), &[4.0, 2.0])).collect();
    let drawing = svg(&plot::loss_curve(&runs.iter().collect::<Vec<_>>()).unwrap());
    let mut heights: Vec<f64> = (drawing.split("<text x=\"").skip(1))
        .filter(|text| text.contains("number"))
        .map(|text| text.split(" y=\"").nth(1).unwrap().split('"').next().unwrap().parse().unwrap())
        .collect();
    heights.sort_by(f64::total_cmp);
    assert_eq!(heights.len(), 60);
    assert!(heights[0] > 8.0 && heights.windows(2).all(|pair| pair[1] - pair[0] >= 16.0), "{heights:?}");
}

#[test]
fn groups_of_runs_are_bands() {
    let groups =
        [("15 %", vec![run("a", &[9.0, 3.0, 1.0]), run("b", &[8.0, 4.0, 2.0])]), ("40 %", vec![run("c", &[8.0, 2.0])])];
    let figure = plot::loss_bands(&groups).unwrap();
    let told = figure.to_html();
    assert_says(&told, &["15 % 1.600 after epoch 2 (mean of 2 runs, 1.100 to 2.100)", "40 % 2.100 after epoch 1"]);
    assert_eq!(svg(&figure).matches("<polygon").count(), 2);
    assert_says(&message(plot::loss_bands::<&str>(&[])), &["groups", "none"]);
    assert_says(&message(plot::loss_bands(&[("x < y", vec![History::new("empty")])])), &["groups", "x < y"]);
}

#[test]
fn a_power_law_is_found_again() {
    for irreducible in [0.0, 0.03] {
        let points = [1e4, 1e5, 2e5, 1e6].map(|x: f64| (x, irreducible + (3e4 / x).powf(0.75)));
        let law = PowerLaw::fit(&points).unwrap();
        let near = [law.irreducible - irreducible, law.scale / 3e4 - 1.0, law.exponent - 0.75];
        assert!(near.iter().all(|off| off.abs() < 1e-9), "{law:?}");
        let drawing = svg(&plot::scaling(&points, "parameters", "loss (nats)").unwrap());
        assert_says(
            &drawing,
            &["parameters", "loss (nats)", &format!("{irreducible:.3} + (30k / x)^0.75"), "\n0.1\n", "\n1M\n"],
        );
    }
    assert_says(&message(PowerLaw::fit(&[(1.0, 0.2), (2.0, 0.0), (3.0, 0.1)])), &["positive losses", "loss 0 at 2"]);
    assert_says(&message(PowerLaw::fit(&[(1.0, 0.2), (1.0, 0.3), (2.0, 0.1)])), &["three different x", "2"]);
    assert_says(&message(PowerLaw::fit(&[])), &["three different x", "0"]);
    assert_says(&message(PowerLaw::fit(&[(1.0, 0.1), (2.0, 0.2), (3.0, 0.3)])), &["fall as x grows", "rise"]);
}

#[test]
fn bars_are_as_long_as_their_numbers() {
    let drawing = svg(&plot::bars(&[("one < two", 100.0), ("half", 50.0), ("none", 0.0)], "GFLOP/s").unwrap());
    assert_says(
        &drawing,
        &["one &lt; two", "GFLOP/s", "\n100\n", "\n50\n", "\n0\n", r#"width="420""#, r#"width="210""#],
    );
    assert_says(&message(plot::bars::<&str>(&[], "s")), &["named", "none"]);
    assert_says(&message(plot::bars(&[("bad", f64::NAN)], "s")), &["NaN", "bad"]);
    assert_says(&message(plot::bars(&[("bad", -1.0)], "s")), &["-1", "bad"]);
}

#[test]
fn curves_have_their_names_and_the_numbers_of_their_axes() {
    let (linear, logarithmic) = (plot::Scale::Linear, plot::Scale::Logarithmic);
    let two = [("<model>", vec![(1.0, 4.0), (1000.0, 0.5)]), ("floor", vec![(1.0, 0.4), (1000.0, 0.4)])];
    let drawing = svg(&plot::curves(&two, ("step", logarithmic), ("loss", linear)).unwrap());
    for part in ["&lt;model&gt;", "floor", "\n1\n", "\n10\n", "\n100\n", "\n1000\n", "\n0.5\n", "\n4\n", "step", "loss"]
    {
        assert!(drawing.contains(part), "{part} in {drawing}");
    }
    // A number alone has a place, too.
    assert!(plot::curves(&[("one", vec![(3.0, 0.0)])], ("x", linear), ("y", linear)).is_ok());
    let refused =
        |points: Vec<(f64, f64)>| message(plot::curves(&[("bad", points)], ("x", linear), ("y", logarithmic)));
    assert_says(&refused(vec![]), &["at least one point"]);
    assert_says(&refused(vec![(1.0, 0.0)]), &["positive", "bad"]);
    assert_says(&refused(vec![(f64::NAN, 1.0)]), &["NaN", "bad"]);
    let many: Vec<_> = (0..7).map(|nth| (nth.to_string(), vec![(0.0, 0.0), (1.0, 1.0)])).collect();
    assert_says(&message(plot::curves(&many, ("x", linear), ("y", linear))), &["at most 6", "got 7"]);
}

#[test]
fn ranges_say_mean_lowest_and_highest() {
    let figure = plot::ranges(&[("a < b", vec![1.0, 2.0, 6.0]), ("counting", vec![4.0])], "nats").unwrap();
    assert!(figure.to_html().contains("a &lt; b 3.000 (1.000 to 6.000); counting 4.000"), "{}", figure.to_html());
    assert!(svg(&figure).contains("a &lt; b"));
    assert!(plot::ranges(&[("one", vec![1.0])], "nats").is_ok());
    assert_says(&message(plot::ranges::<&str>(&[], "nats")), &["named", "none"]);
    assert_says(&message(plot::ranges(&[("bad", vec![])], "nats")), &["at least one value", "bad"]);
    assert_says(&message(plot::ranges(&[("bad", vec![1.0, f64::NAN])], "nats")), &["NaN", "bad"]);
}

#[test]
fn a_history_takes_finite_losses_in_order() {
    let mut history = run("run", &[4.0, 2.0]);
    let record = |epoch, loss| EpochRecord { epoch, train_loss: Some(loss), ..EpochRecord::default() };
    assert_says(&message(history.push(record(1, 1.0))), &["epoch", "after 1"]);
    assert_says(&message(history.push(record(2, f64::NAN))), &["loss", "smaller learning rate"]);
    history.push(record(2, 1.0)).unwrap();
    assert_eq!(history.records().len(), 3);
}

/// The recovery of some words, two in a sentence, each with the same probability.
fn recovered(words: &[&str], probability: f64) -> Recovery {
    let word = |(nth, word): (usize, &&str)| WordRecovery {
        sentence: nth / 2,
        word: (*word).to_owned(),
        predicted: "fox".to_owned(),
        probability,
        recovered: probability > 0.5,
    };
    Recovery { words: words.iter().enumerate().map(word).collect() }
}

#[test]
fn the_heat_map_has_a_cell_a_word_and_epoch() {
    let after = |probability| recovered(&["<fox>", "jumps", "lie"], probability);
    let figure = plot::recovery_heat_map(&[after(0.11), after(0.52), after(0.97)]).unwrap();
    let drawing = svg(&figure);
    assert_says(&drawing, &["&lt;fox&gt;", "jumps", "epoch", "of 3"]);
    for percent in ["11", "52", "97"] {
        assert_eq!(drawing.matches(&format!("\n{percent}\n")).count(), 3, "{percent} % stands in three cells");
    }
    // A tick a recovered word: three in each of two epochs, and one in the legend.
    assert_eq!(drawing.matches("<polyline").count(), 7);
    assert_says(&figure.to_html(), &["3 words", "0 recovered before training, 3 at the end"]);
    assert_says(&message(plot::recovery_heat_map(&[])), &["recoveries"]);
    let none = Recovery { words: vec![] };
    assert_says(&message(plot::recovery_heat_map(&[after(0.1), none])), &["same 3 words"]);
}

#[test]
fn the_heat_map_of_a_long_text_stays_small_and_says_so() {
    let words = vec!["incomprehensibilities"; 20_000];
    let figure = plot::recovery_heat_map(&vec![recovered(&words, 0.6); 6]).unwrap();
    let drawing = svg(&figure);
    assert!(drawing.len() < 300_000, "{} bytes", drawing.len());
    assert_says(&drawing, &["the first 100 of 20000 words", "incomprehensi…", "\n20000\n", "of 20000"]);
    assert_says(&figure.to_html(), &["the first 100 of 20000 words", "20000 at the end"]);
}

#[test]
fn vectors_are_strips_of_one_scale() {
    let drawing = svg(&plot::vectors(&[("<the>", vec![0.0, 1.0, -2.0]), ("cake", vec![2.0, f32::NAN, 0.5])]).unwrap());
    assert_says(&drawing, &["&lt;the&gt;", "cake", "-2.00", "\n2.00\n"]);
    let filled = |colour: &str| drawing.matches(&format!("fill=\"{colour}\"")).count();
    // Once in a strip, once at the end of the scale.
    assert_eq!((filled("#2166AC"), filled("#B2182B")), (2, 2));
    assert_says(&message(plot::vectors::<&str>(&[])), &["at least one vector"]);
    assert_says(&message(plot::vectors(&[("a", vec![1.0]), ("b", vec![])])), &["1 numbers", "0 in \"b\""]);
}

/// The attention of two layers to three tokens: in the first each head looks at one token alone, the second looks at all
/// alike.
fn attention(heads: usize) -> Vec<Tensor> {
    let ids: Vec<u32> = (0..heads as u32).flat_map(|head| [head % 3; 3]).collect();
    let eye = Tensor::eye(3, DType::F32, &Device::Cpu).unwrap();
    let sharp = eye.index_select(&Tensor::new(ids, &Device::Cpu).unwrap(), 0).unwrap();
    let alike = Tensor::full(1f32 / 3.0, (1, heads, 3, 3), &Device::Cpu).unwrap();
    vec![sharp.reshape((1, heads, 3, 3)).unwrap(), alike]
}

#[test]
fn attention_is_drawn_as_maps_of_all_heads_and_as_lines_of_some() {
    let tokens = ["[CLS]", "a<b", "[SEP]"];
    let maps = svg(&plot::model_view(&tokens, &attention(4)).unwrap());
    assert_says(&maps, &["1-1", "2-4", "a&lt;b", "attention probability"]);
    let darkest = "fill=\"#08306B\"";
    assert!(maps.matches(darkest).count() >= 4 * 3 && !maps.contains("a<b"));
    // A large model has small maps without words.
    let many: Vec<Tensor> = (0..12).flat_map(|_| attention(12)).collect();
    let small = svg(&plot::model_view(&tokens, &many).unwrap());
    assert!(small.contains("24-12"));

    let lines = |layer, heads: &[usize]| svg(&plot::head_view(&tokens, &attention(4), layer, heads).unwrap());
    let (one, all) = (lines(0, &[1]), lines(1, &[0, 1, 2, 3]));
    assert_eq!((one.matches("<polyline").count(), all.matches("<polyline").count()), (3, 4 * 9));
    assert_says(&one, &["head 2", "layer 1", "a&lt;b"]);
    assert_says(&message(plot::head_view(&tokens, &attention(4), 2, &[0])), &["layer", "less than 2", "got 2"]);
    assert_says(&message(plot::head_view(&tokens, &attention(4), 0, &[4])), &["heads", "less than 4"]);
    assert_says(
        &message(plot::model_view(&["a", "b"], &attention(4))),
        &["attention", "[1, heads, 2, 2]", "[1, 4, 3, 3]"],
    );
    assert_says(&message(plot::model_view(&tokens, &[])), &["attention", "at least one layer"]);
}

#[test]
fn attention_to_play_with_holds_a_drawing_for_where_scripts_do_not_run() {
    let hostile = ["\"><script>", "</script>", "\u{2028}&"];
    let html = plot::attention_view(&hostile, &attention(4)).unwrap().to_html();
    assert_eq!((html.matches("<script>").count(), html.matches("</script>").count()), (1, 1));
    assert_says(&html, &["<img", "data-attention=\"", "&quot;&gt;&lt;script&gt;"]);
    // Nothing is loaded from elsewhere.
    assert!(!html.replace("http://www.w3.org/2000/svg", "").contains("://"));
    assert!(plot::attention_view(&hostile, &attention(12)).is_ok());
}

/// Attention of a sentence of so many tokens, to which every head and token gives other numbers.
fn long_attention(layers: usize, heads: usize, seq: usize) -> (Vec<String>, Vec<Tensor>) {
    let of_layer = |layer: usize| {
        let logit = |at: usize| ((at * (layer + 3) * 7919) % 1009) as f32 / 168.0;
        let logits: Vec<f32> = (0..heads * seq * seq).map(logit).collect();
        let weights: Vec<f32> = (logits.chunks(seq))
            .flat_map(|row| {
                let sum: f32 = row.iter().map(|logit| logit.exp()).sum();
                row.iter().map(move |logit| logit.exp() / sum)
            })
            .collect();
        Tensor::from_vec(weights, (1, heads, seq, seq), &Device::Cpu).unwrap()
    };
    ((0..seq).map(|nth| format!("token{nth}")).collect(), (0..layers).map(of_layer).collect())
}

#[test]
fn the_attention_of_any_model_stays_small() {
    for (layers, heads, seq) in [(12, 12, 128), (24, 16, 256), (2, 2, 1000)] {
        let (tokens, attention) = long_attention(layers, heads, seq);
        let all: Vec<usize> = (0..heads).collect();
        for (name, figure) in [
            ("maps", plot::model_view(&tokens, &attention)),
            ("lines", plot::head_view(&tokens, &attention, 0, &all)),
            ("to play with", plot::attention_view(&tokens, &attention)),
        ] {
            let size = figure.unwrap().to_html().len();
            assert!(size < 2_000_000, "{name} of {layers} layers, {heads} heads, {seq} tokens: {size} bytes");
        }
    }
    let (tokens, attention) = long_attention(12, 12, 128);
    let maps = svg(&plot::model_view(&tokens, &attention).unwrap());
    assert_eq!(maps.matches("data:image/png;base64,").count(), 144);
    assert_says(&maps, &["darkest of 2 x 2 tokens", "12-12"]);
    assert_says(&svg(&plot::head_view(&tokens, &attention, 0, &[0, 1, 2, 3, 4, 5]).unwrap()), &["strongest of"]);
    assert_says(&plot::attention_view(&tokens, &attention).unwrap().to_html(), &["the 6 that each looks at most"]);
    // Where all are alike, as many are drawn as there may be.
    let alike = Tensor::full(1f32 / 40.0, (1, 12, 40, 40), &Device::Cpu).unwrap();
    let lines = svg(&plot::head_view(&tokens[..40], &[alike], 0, &(0..12).collect::<Vec<_>>()).unwrap());
    assert_eq!(lines.matches("<polyline").count(), 5000);
}

#[test]
fn a_heat_map_has_a_number_in_each_cell() {
    let values = [vec![0.5, 1.0, f64::NAN], vec![0.0, 0.25, 0.0]];
    let figure = plot::heat_map(&["a<b", "c"], &["x", "y", "z"], &values, "share").unwrap();
    let drawing = svg(&figure);
    assert_says(&drawing, &["a&lt;b", "share", "0.25", "#08306B"]);
    assert!(!drawing.contains("NaN"));
    let signed = svg(&plot::heat_map(&["a"], &["x", "y"], &[vec![-2.0, 1.0]], "nats").unwrap());
    assert_says(&signed, &["-2.00", "#2166AC"]);
    let rounded = svg(&plot::heat_map(&["a"], &["x", "y"], &[vec![-0.001, 1.0]], "nats").unwrap());
    assert_says(&rounded, &["\n0\n", "#08306B"]);
    let nothing = svg(&plot::heat_map(&["a"], &["x"], &[vec![1e-6]], "nats").unwrap());
    assert!(nothing.contains("\n0\n") && !nothing.contains("#08306B"), "{nothing}");
    assert_says(&message(plot::heat_map(&["a"], &["x", "y"], &[vec![1.0]], "nats")), &["values", "1 rows of 2", "[1]"]);
    assert_says(&message(plot::heat_map::<&str, &str>(&[], &[], &[], "nats")), &["rows", "none"]);
}

/// WCAG 2.2, "contrast ratio" and "relative luminance", of two colours written `RRGGBB`.
fn contrast(colours: [&str; 2]) -> f64 {
    let [a, b] = colours.map(|colour| {
        let weights = [0.2126, 0.7152, 0.0722];
        let channels = (0..3).map(|nth| u8::from_str_radix(&colour[2 * nth..][..2], 16).unwrap());
        let linear = channels.map(|channel| match f64::from(channel) / 255.0 {
            dark if dark <= 0.04045 => dark / 12.92,
            light => ((light + 0.055) / 1.055).powf(2.4),
        });
        linear.zip(weights).map(|(linear, weight)| linear * weight).sum::<f64>() + 0.05
    });
    (a / b).max(b / a)
}

#[test]
fn numbers_stand_out_from_their_cells() {
    let colours = |drawing: &str, number: &str| {
        let before = &drawing[..drawing.find(&format!("\n{number}\n")).unwrap()];
        let mut fills = before.rsplit("fill=\"#").map(|fill| fill[..6].to_owned());
        [fills.next().unwrap(), fills.next().unwrap()]
    };
    for percent in 1..=100 {
        let (share, number) = (f64::from(percent) / 100.0, format!("{percent}"));
        let recovery = svg(&plot::recovery_heat_map(&[recovered(&["a"], share)]).unwrap());
        let one_sign = svg(&plot::heat_map(&["a"], &["x", "y"], &[vec![100.0, f64::from(percent)]], "").unwrap());
        let two_signs = svg(&plot::heat_map(&["a"], &["x", "y"], &[vec![-100.0, f64::from(percent)]], "").unwrap());
        for drawing in [recovery, one_sign, two_signs] {
            let [ink, cell] = colours(&drawing, &number);
            assert!(contrast([&ink, &cell]) >= 4.5, "{percent}: {ink} on {cell}");
        }
    }
}

#[test]
fn points_that_crowd_keep_their_colour_and_lose_their_name() {
    let mut points = vec![("girls", "Anna", 0.0, 0.0); 40];
    points.push(("a<b", "Tom", 10.0, -1.0));
    let figure = plot::scatter(&points, "first", "second").unwrap();
    let drawing = svg(&figure);
    assert_says(&drawing, &["a&lt;b", "girls", "first", "second", "Tom"]);
    // A shape a group, and one each in the legend.
    assert_eq!(drawing.matches("<circle").count(), 40 + 1);
    assert_eq!(drawing.matches("<rect").count(), 1 + 1 + 1, "the card, Tom, and his group's");
    let names = drawing.matches("Anna").count();
    assert!((1..=4).contains(&names), "{names} of 40 names in one place");
    assert_says(&figure.to_html(), &["Tom (a&lt;b) at 10.00, -1.00"]);
    assert_says(&message(plot::scatter(&[("a", "b", f64::NAN, 0.0)], "x", "y")), &["finite", "\"b\""]);
    assert_says(&message(plot::scatter::<&str, &str>(&[], "x", "y")), &["at least one point"]);
    // An axis that is short has as many decimals as it takes, a long one has none.
    let axis = |end: f64| svg(&plot::scatter(&[("a", "b", 0.0, 0.0), ("a", "c", end, 0.0)], "x", "y").unwrap());
    assert_says(&axis(0.001), &["\n0.0002\n"]);
    assert_says(&axis(1e6), &["\n200000\n"]);
    let seven: Vec<_> = ["a", "b", "c", "d", "e", "f", "g"].map(|group| (group, "x", 0.0, 0.0)).into();
    assert_says(&message(plot::scatter(&seven, "x", "y")), &["at most 6", "7"]);
}

#[test]
fn token_text_is_escaped() {
    let tokenizer = pieces().unwrap();
    let id = |token: &str| tokenizer.id(token).unwrap();
    let batch = Batch {
        input_ids: vec![2, 4, id("!"), 3],
        offsets: vec![0, 4],
        masked_rows: vec![1, 2],
        targets: vec![id("he"), id(",")],
        treatments: vec![Treatment::Mask, Treatment::Random],
    };
    let html = markup::masked_tokens(&batch, &tokenizer).unwrap().to_html();
    assert_says(&html, &[">[MASK]<", ">he<", ">!<", ">,<", "random token", "kept as it is"]);

    let prediction = Prediction { id: 7, token: "<script>alert(1)</script>".to_owned(), probability: 0.25 };
    let filled = FilledMask {
        text: "a <b> [MASK]".to_owned(),
        filled: String::new(),
        masks: vec![vec![prediction]],
        coverage: Coverage::default(),
    };
    let html = markup::predictions(&filled).to_html();
    assert_says(&html, &["&lt;script&gt;", "a &lt;b&gt; [MASK]", "25.0 %"]);
    assert!(!html.contains("<script"));
    assert!(!Figure::heading("<img src=x>").to_html().contains("<img"));
}

#[test]
fn figures_stack_and_are_saved() {
    let curve = plot::loss_curve(&[&run("run", &[4.0, 2.0])]).unwrap();
    let stack = Figure::stack([Figure::heading("Loss"), curve.clone(), Figure::html("<p>text</p>")]);
    let html = stack.to_html();
    assert_says(&html, &["Loss", "data:image/svg+xml;base64,", "<p>text</p>"]);
    let folder = tempfile::tempdir().unwrap();
    stack.save(folder.path().join("all.html")).unwrap();
    assert!(std::fs::read_to_string(folder.path().join("all.html")).unwrap().contains(&html));
    assert_says(&message(stack.save(folder.path().join("all.svg"))), &["all.svg", ".html"]);
    assert_says(&message(stack.save(folder.path().join("all.png"))), &["all.png", ".html"]);
    assert_says(&message(curve.save(folder.path().join("curve.pdf"))), &["curve.pdf", ".svg", " or .html"]);
    assert_says(&message(curve.save("/no/such/folder/curve.svg")), &["write", "/no/such/folder"]);
}

#[test]
fn a_check_stops_at_what_is_wrong_and_says_what_was_expected() {
    let check = Check::new()
        .near("a third", 1.0 / 3.0, 0.333_33, "")
        .equal("a list", vec![1, 2], vec![1, 3], "Count <again>.")
        .that("never asked", false, "");
    assert!(!check.passed());
    assert_eq!(check.wrong(), Some("a list: expected [1, 3], got [1, 2]. Count <again>."));
    assert_eq!(format!("{check:?}"), "Not yet.\n✓ a third\n✗ a list: expected [1, 3], got [1, 2]. Count <again>.");
    assert_says(&check.to_figure().to_html(), &["Not yet.", "✓ a third", "Count &lt;again&gt;."]);

    let shown = |check: Check| check.and_show(Figure::html("<p>drawn</p>")).to_html();
    assert!(!shown(check).contains("drawn"));
    assert_says(&shown(Check::new().that("it holds", true, "")), &["All right.", "✓ it holds", "<p>drawn</p>"]);

    // A number that is none is never near; far numbers are told with as many digits as it takes.
    let wrong = |yours: f64, expected: f64| Check::new().near("it", yours, expected, "").wrong().unwrap().to_owned();
    assert_eq!(wrong(f64::NAN, 1.0), "it: expected 1, got NaN.");
    assert_eq!(wrong(f64::INFINITY, 0.5), "it: expected 0.5, got inf.");
    assert_eq!(wrong(123_456.789, 1e-3), "it: expected 0.001, got 123457.");
    assert_eq!(wrong(1.0, 1.0 / 60.0), "it: expected 1/60 (0.0166667), got 1.");
    assert_eq!(wrong(0.375, -200.0 / 3.0), "it: expected -200/3 (-66.6667), got 0.375.");
    assert_eq!(wrong(8f64.sqrt(), 1e-7), "it: expected 0.0000001, got 2.82843.");
    assert!(Check::new().near("large", 1e6 + 50.0, 1e6, "").that("small", true, "").passed());
}
