export const byId = (id) => document.getElementById(id);

export const cloneOf = (template) => byId(template).content.firstElementChild.cloneNode(true);
