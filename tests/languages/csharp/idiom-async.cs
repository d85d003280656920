using System;
using System.Threading.Tasks;

namespace App {
    public class Program {
        public static async Task Main(string[] args) {
            await Task.Delay(1);
            Console.WriteLine(args[0]);
        }
    }
}
