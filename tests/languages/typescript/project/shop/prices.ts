export const total = (count: number, price: number): number => count * price;
