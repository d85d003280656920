namespace Shop
{
    static class Prices
    {
        public static int Total(int count, int price) => count * price;
    }
}
