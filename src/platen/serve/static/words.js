// What the page says before anything is written, by mode and by the kind of model.

export const WORDS = {
  write: {
    title: "Begin a text. The model goes on.",
    base: "This is a base model: it has learned to continue text. Give it a first line, then add to what it writes or let it run.",
    chat: "The model continues whatever you begin. To ask it something, switch to Chat.",
    placeholder: "Begin a text…",
    more: "Add a line, or let it go on…",
    starters: ["My lord,", "Once upon a time", "It was late in the evening when"],
  },
  chat: {
    title: "Say something.",
    base: "This is a base model. It continues text and was not trained to answer, so expect it to wander; Write suits it better.",
    chat: "It answers here, on this machine; nothing you write leaves it.",
    remote: "Another service answers: this server passes on to it what you write.",
    placeholder: "Write a message…",
    more: "Write a message…",
    starters: ["Tell me a short story.", "Who are you?", "What should I have for dinner?"],
  },
};

export const NOBODY =
  "Start it with one that writes (platen serve FOLDER), or name other services under serve.upstreams in platen.yaml. " +
  "Where it asks for keys, yours may not be for its models: see the settings. Its API for programs is at /v1.";
