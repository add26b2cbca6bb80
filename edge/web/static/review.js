// Confirm or overrule a verdict. What is shown as stored was stored: until the daemon has said so, it is "being stored".
import { post } from "./api.js";
import { badge, h, moment, spoken } from "./dom.js";

const NAME = "edge.reviewer";
const PRESETS = {
  OK: ["good part, harmless texture", "dust or fibre, part is good", "reflection or light", "within the drawing's limits"],
  NotOK: ["scratch", "crack", "pore or cavity", "stain", "wrong or missing part", "defect was missed"],
  NotDecidable: ["picture out of focus", "picture too dark or too bright", "wrong view", "not to be seen here"],
};

export class Review {
  constructor(verdict, reviews) {
    this.verdict = verdict;
    this.reviews = reviews;
    this.history = h("ol", { class: "history", "aria-label": "Reviews, oldest first" });
    this.state = h("p", { class: "state", role: "status" });
    this.problem = h("p", { class: "problem", role: "alert", hidden: true });
    this.dialog = h("dialog", { "aria-labelledby": "review-title" });
    this.element = h("section", { class: "panel review", "aria-label": "Review" }, h("h2", {}, "Review"),
      h("p", { class: "buttons" },
        h("button", { type: "button", class: "primary", onclick: () => this.open(verdict.resultEvaluation) }, "Confirm ", h("kbd", {}, "c")),
        h("button", { type: "button", onclick: () => this.open(verdict.resultEvaluation === "OK" ? "NotOK" : "OK") }, "Overrule ", h("kbd", {}, "x"))),
      this.state, this.problem, this.history, this.dialog);
    this.draw();
  }

  confirm() { this.open(this.verdict.resultEvaluation); }
  overrule() { this.open(this.verdict.resultEvaluation === "OK" ? "NotOK" : "OK"); }

  draw() {
    this.history.replaceChildren(...this.reviews.map((review) => h("li", {}, badge(review.evaluation, spoken(review.evaluation)),
      ` ${review.agrees ? "confirmed" : "overruled"} by `, h("strong", {}, review.reviewer), " ", moment(review.createdAt),
      review.reason ? h("q", {}, review.reason) : null)));
    this.history.hidden = !this.reviews.length;
    if (!this.reviews.length) this.state.textContent = "Nobody has reviewed this verdict.";
  }

  open(evaluation) {
    const name = h("input", { name: "reviewer", required: true, maxlength: 100, autocomplete: "name", value: localStorage.getItem(NAME) ?? "" });
    const reason = h("input", { name: "reason", maxlength: 500, list: "presets", autocomplete: "off" });
    const presets = h("datalist", { id: "presets" });
    const quick = h("p", { class: "presets" });
    const title = h("h2", { id: "review-title" });
    const choices = ["OK", "NotOK", "NotDecidable"].map((one) => h("label", {},
      h("input", { type: "radio", name: "evaluation", value: one, checked: one === evaluation, onchange: () => choose(one) }), spoken(one)));
    let chosen = evaluation;
    const choose = (one) => {
      chosen = one;
      const agrees = one === this.verdict.resultEvaluation;
      title.textContent = agrees ? `Confirm: ${spoken(one)}` : `Overrule: ${spoken(this.verdict.resultEvaluation)} → ${spoken(one)}`;
      reason.required = !agrees;
      presets.replaceChildren(...PRESETS[one].map((text) => h("option", { value: text })));
      quick.replaceChildren(...PRESETS[one].map((text) => h("button", { type: "button", onclick: () => { reason.value = text; reason.focus(); } }, text)));
    };
    const form = h("form", { onsubmit: (event) => {
      event.preventDefault();
      this.dialog.close();
      this.send({ resultId: this.verdict.resultId, evaluation: chosen, reason: reason.value.trim(), reviewer: name.value.trim() });
    } }, title, h("fieldset", {}, h("legend", {}, "It is"), choices), h("label", {}, "Reason", reason), presets, quick,
    h("label", {}, "Your name", name), h("p", { class: "buttons" }, h("button", { class: "primary" }, "Store"),
      h("button", { type: "button", onclick: () => this.dialog.close() }, "Cancel")));
    choose(evaluation);
    this.dialog.replaceChildren(form);
    this.dialog.showModal();
    (evaluation !== this.verdict.resultEvaluation || name.value ? reason : name).focus();
  }

  async send(review) {
    localStorage.setItem(NAME, review.reviewer);
    this.problem.hidden = true;
    this.state.textContent = "Being stored …";
    try {
      this.reviews.push(await post("api/v1/reviews", review));
      this.state.textContent = "Stored.";
      this.draw();
    } catch (error) {
      this.state.textContent = "";
      this.problem.hidden = false;
      this.problem.textContent = `Not stored: ${error.message}`;
    }
  }
}
