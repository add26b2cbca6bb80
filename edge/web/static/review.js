// Confirm or overrule a verdict. What is shown as stored was stored: until the daemon has said so, it is "being stored".
import { post } from "./api.js";
import { badge, h, moment, spoken } from "./dom.js";

const NAME = "edge.reviewer";
const NOBODY = "Nobody has reviewed this verdict.";
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
    this.dialog = h("dialog", { "aria-labelledby": "review-title" });
    this.element = h("section", { class: "panel review", "aria-label": "Review" }, h("h2", {}, "Review"),
      h("p", { class: "buttons" },
        h("button", { type: "button", class: "primary", onclick: () => this.open(verdict.resultEvaluation) }, "Confirm ", h("kbd", {}, "c")),
        h("button", { type: "button", onclick: () => this.open(verdict.resultEvaluation === "OK" ? "NotOK" : "OK") }, "Overrule ", h("kbd", {}, "x"))),
      this.state, this.history, this.dialog);
    this.draw();
  }

  /** What is stored now, whoever said it. */
  update(reviews) {
    if (reviews.length === this.reviews.length) return;
    this.reviews = reviews;
    this.draw();
    if (this.warning && reviews.length > this.before) {
      const last = reviews.at(-1);
      this.warning.hidden = false;
      this.warning.textContent = `Meanwhile ${last.reviewer} said ${spoken(last.evaluation)}. What you store comes after it.`;
    }
  }

  confirm() { this.open(this.verdict.resultEvaluation); }
  overrule() { this.open(this.verdict.resultEvaluation === "OK" ? "NotOK" : "OK"); }

  draw() {
    this.history.replaceChildren(...this.reviews.map((review) => h("li", {}, badge(review.evaluation, spoken(review.evaluation)),
      ` ${review.agrees ? "confirmed" : "overruled"} by `, h("strong", {}, review.reviewer), " ", moment(review.createdAt),
      review.reason ? h("q", {}, review.reason) : null)));
    this.history.hidden = !this.reviews.length;
    if (this.reviews.length && this.state.textContent === NOBODY) this.state.textContent = "";
    if (!this.reviews.length) this.state.textContent = NOBODY;
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
    this.before = this.reviews.length;
    this.warning = h("p", { class: "problem", role: "alert", hidden: true });
    const store = h("button", { class: "primary" }, "Store");
    const form = h("form", { onsubmit: async (event) => {
      event.preventDefault();
      store.disabled = true; // once
      if (await this.send({ resultId: this.verdict.resultId, evaluation: chosen, reason: reason.value.trim(), reviewer: name.value.trim() })) this.dialog.close();
      store.disabled = false;
    } }, title, h("fieldset", {}, h("legend", {}, "It is"), choices), h("label", {}, "Reason", reason), presets, quick,
    h("label", {}, "Your name", name), this.warning, h("p", { class: "buttons" }, store,
      h("button", { type: "button", onclick: () => this.dialog.close() }, "Cancel")));
    choose(evaluation);
    this.dialog.replaceChildren(form);
    this.dialog.showModal();
    (evaluation !== this.verdict.resultEvaluation || name.value ? reason : name).focus();
  }

  async send(review) {
    localStorage.setItem(NAME, review.reviewer);
    this.warning.hidden = true;
    this.state.textContent = "Being stored …";
    try {
      const stored = await post("api/v1/reviews", review);
      if (!this.reviews.some((one) => one.reviewId === stored.reviewId)) this.reviews.push(stored); // its event may have come first
      this.state.textContent = "Stored.";
      this.draw();
      return true;
    } catch (error) {
      this.state.textContent = "";
      this.draw();
      this.warning.hidden = false;
      this.warning.textContent = `Not stored: ${error.message}`;
      return false;
    }
  }
}
