/** Rounds to the nearest integer, ties to even. @param {number} value 0 or more */
export function rounded(value) {
  const whole = Math.round(value);
  return whole - value === 0.5 && whole % 2 ? whole - 1 : whole;
}
