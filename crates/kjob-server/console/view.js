// What all views are made with: elements by templates, and state by hooks.

import { createElement } from "./vendor/preact.js";
import htm from "./vendor/htm.js";

export const html = htm.bind(createElement);
export { render } from "./vendor/preact.js";
export { useCallback, useEffect, useLayoutEffect, useMemo, useRef, useState } from "./vendor/hooks.js";
