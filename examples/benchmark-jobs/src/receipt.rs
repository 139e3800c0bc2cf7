//! Receipts, question by question, whichever shape a runner gives them.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Catalogue;

/// A question with its answer, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Answered {
    /// The question's id.
    pub question_id: String,
    /// Its category in words: `Natural history`.
    pub category: String,
    /// The question as it was put.
    pub question: String,
    /// What the runner answered.
    pub response: String,
}

/// As the contract has it.
#[derive(Deserialize)]
struct Said {
    question_id: String,
    question: String,
    response: String,
}

/// The answers in a receipt: below `output.data.responses`, or one level further in, where older runners put them.
///
/// # Errors
/// It is no JSON, or has them in neither place.
pub fn answers(receipt: &[u8], catalogue: &Catalogue) -> Result<Vec<Answered>, serde_json::Error> {
    let receipt: Value = serde_json::from_slice(receipt)?;
    let data = &receipt["output"]["data"];
    let responses = data.get("responses").unwrap_or(&data["data"]["responses"]);
    let responses: Vec<Said> = serde_json::from_value(responses.clone())?;
    let answered = |Said { question_id, question, response }| {
        let known = catalogue.get(&question_id);
        let category = known.map_or("uncategorised", |known| known.category.as_str());
        Answered { category: in_words(category), question_id, question, response }
    };
    Ok(responses.into_iter().map(answered).collect())
}

/// `natural_history` as `Natural history`.
fn in_words(category: &str) -> String {
    let words = category.replace(['_', '-'], " ");
    let mut letters = words.trim().chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn r35_categories_are_in_words() {
        let shown = ["self_description", "geography", "a-b_c", "été", ""].map(in_words);
        assert_eq!(shown, ["Self description", "Geography", "A b c", "Été", ""]);
    }

    #[test]
    fn r29_r35_both_shapes_of_a_receipt_are_read_question_by_question() {
        let catalogue = Catalogue::built_in();
        let responses = json!([
            { "question_id": "math_basic", "question": "What is 2 + 2?", "response": "4" },
            { "question_id": "unheard_of", "question": "And?", "response": "" },
        ]);
        let direct = json!({ "output": { "data": { "responses": responses } } });
        let nested = json!({ "output": { "data": { "data": { "responses": responses } } } });
        for receipt in [direct, nested] {
            let answers = answers(receipt.to_string().as_bytes(), &catalogue).unwrap();
            let shown: Vec<[&str; 3]> =
                answers.iter().map(|it| [&*it.category, &*it.question, &*it.response]).collect();
            assert_eq!(
                shown,
                [["Arithmetic", "What is 2 + 2?", "4"], ["Uncategorised", "And?", ""]]
            );
        }
        let none = json!({ "output": { "data": { "text_output": "4" } } });
        assert!(answers(none.to_string().as_bytes(), &catalogue).is_err());
    }
}
