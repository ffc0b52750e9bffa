// Before the first paint, which would have other colours or go the other way: the browser waits for this script.
{
  const DIRECTIONS = { en: "ltr", ar: "rtl" };
  const query = new URLSearchParams(location.search);
  const kept = (key) => {
    try {
      return localStorage.getItem(`fastchat.${key}`);
    } catch {
      return null;
    }
  };
  const languageOf = (tag) => {
    try {
      return new Intl.Locale(tag).language;
    } catch {
      return "";
    }
  };
  // The address may ask for a language (`?lang=ar`), the reader may have chosen one, or his browser knows.
  const asked = [query.get("lang"), kept("language"), ...navigator.languages];
  const lang = asked.find((tag) => Object.hasOwn(DIRECTIONS, languageOf(tag))) ?? "en";
  Object.assign(document.documentElement, { lang, dir: DIRECTIONS[languageOf(lang)] });
  document.documentElement.dataset.theme = query.get("theme") ?? kept("theme") ?? "";
}
