/** Pages of an account: keys that are shown once are copied by a button. */
import { copyButtons } from "./copy.js";

copyButtons(document);
