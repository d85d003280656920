class Program
{
    static void Main()
    {
        System.Console.WriteLine(Shop.Prices.Total(6, 7));
    }
}
